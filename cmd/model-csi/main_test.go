package main

import (
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	tests := []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{args: "version", stdout: "model-csi "},
		{args: "", stdout: "Available Commands:"},
		{args: "node --help", stdout: "--registry-config-dir"},
		{args: "cache", stdout: "gc"},
		{args: "cache gc --help", stdout: "least recently used"},
		{args: "nod", code: exitError, stderr: `unknown command "nod"`},
		{args: "node --rot /x", code: exitError, stderr: "unknown flag: --rot"},
		{args: "node --cache-reserve lots", code: exitError, stderr: "cache-reserve"},
		{args: "node extra", code: exitError, stderr: "extra"},
		{args: "cache gc --free lots", code: exitError, stderr: "--free"},
		{args: "cache gc --root /nonexistent", code: exitError, stderr: "no daemon answers for state root /nonexistent"},
		{args: "status --root /nonexistent -o yaml", code: exitError, stderr: "no daemon answers"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(strings.Fields(tt.args), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("code %d\nstdout: %s\nstderr: %s", code, stdout.String(), stderr.String())
			}
			if strings.Count(stderr.String(), "\n") > 3 {
				t.Errorf("the error is not short: %s", stderr.String())
			}
		})
	}
}
