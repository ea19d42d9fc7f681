package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Flags are the flags of the node plugin, bound to a flag set. They remember whether they were given.
type Flags struct {
	file  string
	given []*flagValue
}

// Bind adds --config and one flag for every setting to fs. After fs was parsed, Flags.Config returns the outcome.
func Bind(fs *pflag.FlagSet) *Flags {
	f := &Flags{}
	fs.StringVar(&f.file, "config", "", "YAML `file` with the same keys as the flags; a flag that is given wins over the file")
	defaults := base()
	for _, s := range settings {
		v := &flagValue{setting: s, text: s.read(&defaults)}
		f.given = append(f.given, v)
		usage := s.help
		if s.absent != "" {
			usage += fmt.Sprintf(" (empty: %s)", s.absent)
		}
		fs.Var(v, s.key, usage)
	}
	return f
}

// Config returns the defaults, overruled by the file that --config names, overruled by the flags that were given. Errors
// name the file or the flag, the value, and what is allowed.
func (f *Flags) Config() (Config, error) {
	c, err := load(f.file)
	if err != nil {
		return Config{}, err
	}
	var errs []error
	for _, v := range f.given {
		if v.set {
			errs = append(errs, v.setting.set(&c, v.text))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	if c, err = c.complete(); err != nil && f.file != "" {
		err = fmt.Errorf("config file %s and the flags: %w", f.file, err) // together: a flag may be at odds with the file
	}
	return c, err
}

// flagValue is a pflag.Value that holds the text of one setting.
type flagValue struct {
	setting setting
	text    string
	set     bool
}

func (f *flagValue) String() string { return f.text }

// Type is what help shows behind the flag's name.
func (f *flagValue) Type() string { return strings.ReplaceAll(f.setting.kind, " or ", "|") }

// Set checks the text at once, so that pflag's error names the flag.
func (f *flagValue) Set(text string) error {
	var scratch Config
	// pflag's error would show a secret; Flags.Config says later what is wrong with it.
	if err := f.setting.write(&scratch, text); err != nil && !f.setting.secret {
		return err
	}
	f.text, f.set = text, true
	return nil
}
