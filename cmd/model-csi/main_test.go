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
		{args: "nod", code: exitUsage, stderr: `unknown command "nod"`},
		{args: "node --rot /x", code: exitUsage, stderr: "unknown flag: --rot"},
		{args: "node --cache-reserve lots", code: exitUsage, stderr: "cache-reserve"},
		{args: "node extra", code: exitUsage, stderr: "extra"},
		{args: "cache gc --free lots", code: exitUsage, stderr: "--free"},
		{args: "cache gc --root /nonexistent", code: exitError, stderr: "no daemon answers for state root /nonexistent"},
		{args: "push", code: exitUsage, stderr: "accepts 2 arg(s)"},
		{args: "push . UPPER", code: exitUsage, stderr: "names no registry"},
		{args: "push /nonexistent r.example.com/a:b", code: exitError, stderr: "/nonexistent"},
		{args: "push --set familly=x . r.example.com/a:b", code: exitUsage, stderr: `did you mean "family"?`},
		{args: "push --set paramSize=big . r.example.com/a:b", code: exitUsage, stderr: "such as 7B"},
		{args: "push --archive zip . r.example.com/a:b", code: exitUsage, stderr: "tar+zstd"},
		{args: "push --archive docs=tar . r.example.com/a:b", code: exitUsage, stderr: `category "docs"`},
		{args: "push --category *.x . r.example.com/a:b", code: exitUsage, stderr: "--category"},
		{args: "push --spec oci . r.example.com/a:b", code: exitUsage, stderr: "modelpack and cnai"},
		{args: "push --mount-from other.example.com/a . r.example.com/a:b", code: exitUsage, stderr: "within one registry"},
		{args: "push --chunk-size lots . r.example.com/a:b", code: exitUsage, stderr: "--chunk-size"},
		{args: "push . hf://org/name", code: exitUsage, stderr: "OCI registries only"},
		{args: "validate hf://org/name", code: exitUsage, stderr: "not in an OCI registry"},
		{args: "pack .", code: exitUsage, stderr: "--to-layout is required"},
		{args: "validate", code: exitUsage, stderr: "name one thing"},
		{args: "validate --layout x y", code: exitUsage, stderr: "name one thing"},
		{args: "validate NOWHERE", code: exitUsage, stderr: "is not a directory"},
		{args: "status --root /nonexistent -o yaml", code: exitError, stderr: "no daemon answers"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(programName, strings.Fields(tt.args), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("code %d\nstdout: %s\nstderr: %s", code, stdout.String(), stderr.String())
			}
			if strings.Count(stderr.String(), "\n") > 3 {
				t.Errorf("the error is not short: %s", stderr.String())
			}
		})
	}
}
