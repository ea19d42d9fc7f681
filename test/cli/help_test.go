package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goldenDir holds the help text of every command.
const goldenDir = "testdata/help"

// Every command's help is that of its golden file, word by word. The binary itself says which commands there are, so a
// new one fails here until its text was read and written; go test -update writes it.
func TestHelp(t *testing.T) {
	files := map[string]bool{}
	for _, command := range commands(t, nil) {
		golden := filepath.Join(goldenDir, strings.Join(command, "-")+".txt")
		if len(command) == 0 {
			golden = filepath.Join(goldenDir, "root.txt")
		}
		files[golden] = true
		got := help(t, command)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Errorf("the help of %q has no golden file; go test -update writes it: %v", strings.Join(command, " "), err)
		} else if got != string(want) {
			t.Errorf("the help of %q is not that of %s any more; go test -update writes it:\n%s", strings.Join(command, " "), golden, got)
		}
	}
	const least = 30 // commands there are today, so that a walk that finds none is seen
	if len(files) < least {
		t.Errorf("only %d commands were found", len(files))
	}
	there, err := filepath.Glob(filepath.Join(goldenDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range there {
		if !files[name] {
			t.Errorf("%s is the help of no command", name)
		}
	}
}

var (
	commandList = regexp.MustCompile(`(?m)^Available Commands:\n((?:  .*\n)+)`)
	commandName = regexp.MustCompile(`(?m)^  ([a-z]+) `)
)

// commands lists a command and those below it, as their help tells of them.
func commands(t *testing.T, command []string) [][]string {
	t.Helper()
	out := [][]string{command}
	list := commandList.FindStringSubmatch(help(t, command))
	if list == nil {
		return out
	}
	for _, name := range commandName.FindAllStringSubmatch(list[1], -1) {
		out = append(out, commands(t, append(command[:len(command):len(command)], name[1]))...)
	}
	return out
}

func help(t *testing.T, command []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(filepath.SplitList(path)[0], "model-csi"), append(command[:len(command):len(command)], "--help")...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return string(text)
}
