package ingest

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages. It is a hint.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
