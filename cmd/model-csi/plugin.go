package main

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// The names of the program. kubectl runs what is called kubectl-model on the PATH as "kubectl model".
const (
	programName = "model-csi"
	pluginFile  = "kubectl-model"
	pluginName  = "kubectl model"
)

// isPlugin reports whether the program was started under its name as a plugin of kubectl.
func isPlugin(argv0 string) bool {
	return strings.TrimSuffix(filepath.Base(argv0), ".exe") == pluginFile
}

// namePlugin makes the help of a command and of all below it speak of the plugin.
func namePlugin(root *cobra.Command) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: pluginName}
	rename := pluginText(root)
	for _, c := range append(commands(root), root) {
		c.Short, c.Long, c.Example = rename(c.Short), rename(c.Long), rename(c.Example)
	}
}

// pluginText returns what turns the command lines in a text into those of the plugin. Other things have the program's name,
// too, such as directories: only what a command of root follows is one.
func pluginText(root *cobra.Command) func(string) string {
	var names []string
	for _, c := range root.Commands() {
		names = append(names, append(c.Aliases, c.Name())...)
	}
	line := regexp.MustCompile(`(^|[^\w/-])` + programName + ` (` + strings.Join(names, "|") + `|completion)\b`)
	return func(text string) string { return line.ReplaceAllString(text, "${1}"+pluginName+" ${2}") }
}

// commands lists a command and all below it, in the order of help.
func commands(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			out = append(out, commands(sub)...)
		}
	}
	return out
}
