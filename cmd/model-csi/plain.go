package main

import (
	"io"
	"unicode"
	"unicode/utf8"
)

// plain keeps what an artifact says about itself from steering the terminal: control characters but tabs and line ends
// are shown as "?". Texts are UTF-8; a character is not divided between two writes.
type plain struct{ to io.Writer }

// Write implements io.Writer.
func (p plain) Write(b []byte) (int, error) {
	safe := make([]byte, 0, len(b))
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		switch {
		case r == '\t' || r == '\n':
			safe = append(safe, byte(r))
		case unicode.IsControl(r), r == utf8.RuneError && n == 1:
			safe = append(safe, '?')
		default:
			safe = append(safe, rest[:n]...)
		}
		rest = rest[n:]
	}
	if _, err := p.to.Write(safe); err != nil {
		return 0, err
	}
	return len(b), nil
}
