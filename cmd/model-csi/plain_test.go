package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// What an artifact says about itself does not reach the terminal as a command.
func TestPlain(t *testing.T) {
	var out strings.Builder
	err := printResult(&out, "text", nil, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "name:\t%s\n", "a\x1b]0;title\x07b\u009b31mc\r\xff größe 模型")
		return err
	})
	if want := "name:\ta?]0;title?b?31mc?? größe 模型\n"; err != nil || out.String() != want {
		t.Errorf("got %q, %v, want %q", out.String(), err, want)
	}
}
