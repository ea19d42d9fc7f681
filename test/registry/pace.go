package registry

import (
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"
)

// pacer limits the rate of each connection by TCP pacing, so that a limited connection costs no more CPU than a free one.
type pacer struct {
	mu    sync.Mutex
	rate  int
	conns map[net.Conn]struct{}
}

// SetPace limits every connection, open ones too, to so many bytes a second; 0 ends the limit.
func (r *Registry) SetPace(bytesPerSecond int) {
	r.pace.mu.Lock()
	defer r.pace.mu.Unlock()
	r.pace.rate = bytesPerSecond
	for c := range r.pace.conns {
		setPace(c, bytesPerSecond)
	}
}

func (p *pacer) connState(c net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		if p.conns == nil {
			p.conns = map[net.Conn]struct{}{}
		}
		p.conns[c] = struct{}{}
		if p.rate > 0 {
			setPace(c, p.rate)
		}
	case http.StateClosed, http.StateHijacked:
		delete(p.conns, c)
	}
}

// setPace asks the kernel; a kernel that cannot pace leaves the connection unlimited, which tests of rates notice.
func setPace(c net.Conn, rate int) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	if rate <= 0 {
		rate = -1 // unlimited
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate)
	})
}
