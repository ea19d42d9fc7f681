package mount

// NewClassic returns a System that behaves as on a kernel without mounts by file descriptor.
func NewClassic() *System { return &System{classic: true} }
