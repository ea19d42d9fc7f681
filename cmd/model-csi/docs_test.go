package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/cli.md")

const documentation = "../../docs/cli.md"

// reference is docs/cli.md: what is written by hand, and every command with its flags.
func reference() string {
	var b strings.Builder
	b.WriteString("# Command line\n\n<!-- written by make generate from the commands' own help; do not edit -->\n\n" + introduction + "\n## Commands\n\n")
	root := newCommand()
	root.InitDefaultCompletionCmd()
	all := commands(root)
	for _, c := range all {
		if c.Runnable() && !c.HasAvailableSubCommands() {
			fmt.Fprintf(&b, "- [`%s`](#%s): %s\n", c.CommandPath(), anchor(c.CommandPath()), strings.ToLower(c.Short[:1])+c.Short[1:])
		}
	}
	for _, c := range all {
		describeCommand(&b, c)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// anchor is how GitHub names the heading.
func anchor(heading string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

func describeCommand(b *strings.Builder, c *cobra.Command) {
	if !c.Runnable() || c.HasAvailableSubCommands() {
		return
	}
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n%s\n```\n", c.CommandPath(), strings.TrimSpace(long), c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", regexp.MustCompile(`(?m)^  `).ReplaceAllString(strings.Trim(c.Example, "\n"), ""))
	}
	if !c.HasAvailableLocalFlags() {
		return
	}
	b.WriteString("\n| flag | default | meaning |\n| --- | --- | --- |\n")
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		flag := "`--" + f.Name
		if f.Shorthand != "" {
			flag = "`-" + f.Shorthand + "`, " + flag
		}
		if name != "" {
			flag += " " + name
		}
		value := f.DefValue
		switch value {
		case "", "[]", "false", "0":
			value = ""
		default:
			value = "`" + value + "`"
		}
		fmt.Fprintf(b, "| %s` | %s | %s |\n", flag, cell(value), cell(usage))
	})
}

// cell keeps a text inside its column, and angle brackets from being taken for HTML.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", `\<`, "\n", " ").Replace(s)
}

func TestDocumentation(t *testing.T) {
	old, err := os.ReadFile(documentation)
	if err == nil && string(old) == reference() {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: run make generate", documentation)
	}
	if err := os.WriteFile(documentation, []byte(reference()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every command has what a person needs who asks for help.
func TestEveryCommandIsExplained(t *testing.T) {
	for _, c := range commands(newCommand()) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Args == nil {
			t.Errorf("%s: its short help is empty or a sentence, or its arguments are not checked", c.CommandPath())
		}
		if c.Runnable() && !c.HasAvailableSubCommands() && c.Name() != "version" && (c.Long == "" || c.Example == "" && c.HasLocalFlags()) {
			t.Errorf("%s has no long help or no example", c.CommandPath())
		}
	}
}

const introduction = `One program is the node plugin, packs and pushes models, looks inside them, and answers the person on call at a node. Under
the name ` + "`kubectl-model`" + ` on the PATH it is the plugin ` + "`kubectl model`" + `.

Commands that talk to registries use the logins of docker, oras and helm: ` + "`~/.docker/config.json`" + ` (or ` + "`DOCKER_CONFIG`" + `) with its
credential helpers, and for the Hugging Face Hub ` + "`HF_TOKEN`" + `. Registries on the machine itself are spoken to in plain HTTP, all
others over TLS; ` + "`--registry-config-dir`" + ` takes containerd's hosts.toml directories for everything else.

On a terminal progress is drawn as bars, elsewhere as a line now and then; ` + "`--quiet`" + ` shows none. Results go to standard output,
everything else to standard error. ` + "`-o json`" + ` is for programs.

Every command ends with one of these codes:

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | it failed; standard error says why, and what to do |
| 2 | the command line is wrong: an unknown flag, a missing argument, a value or reference that cannot be read |
| 3 | ` + "`validate` or `cache verify`" + ` did its work and found something wrong |
| 130 | a signal ended it, such as Ctrl-C; what is there stays, and the same command goes on from it |

Shell completion: ` + "`source <(model-csi completion bash)`" + `, or zsh, fish and powershell.
`
