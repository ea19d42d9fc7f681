package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
)

// packFlags are what push, pack and validate have in common: what of a directory is packed, and as what.
type packFlags struct {
	spec        string
	archives    []string
	categories  []string
	settings    []string
	annotations []string
	hidden      bool
	followLinks bool
	force       bool
	jobs        int
}

func (p *packFlags) bindScan(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.spec, "spec", string(pack.ModelPack), "`names` to write: modelpack, or cnai for tools of early 2025")
	f.StringArrayVar(&p.categories, "category", nil, "put files into a category against the rules, as `'glob=category'`: weight, weight.config, doc, code or dataset (repeatable)")
	f.StringArrayVar(&p.settings, "set", nil, "set a field of the model's config, as `key=value`; an empty value removes it (repeatable)")
	f.BoolVar(&p.hidden, "hidden", false, "also pack files and directories whose names begin with a dot")
	f.BoolVar(&p.followLinks, "follow-links", false, "also pack what symbolic links lead to outside of the directory, as in the Hugging Face cache")
}

func (p *packFlags) bind(cmd *cobra.Command) {
	p.bindScan(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&p.archives, "archive", nil, "`archive` of the layers: raw, tar, tar+gzip or tar+zstd, for all or as category=archive (repeatable; default raw)")
	f.StringArrayVar(&p.annotations, "annotation", nil, "annotate the manifest, as `key=value` (repeatable)")
	f.BoolVar(&p.force, "force", false, "pack weights that are not whole all the same")
	f.IntVarP(&p.jobs, "jobs", "j", 0, "how many files are read and sent at once (default 4, or the `number` of processors)")
	_ = cmd.RegisterFlagCompletionFunc("spec", cobra.FixedCompletions([]string{"modelpack", "cnai"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("set", cobra.FixedCompletions(keysForCompletion(), cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp))
}

func keysForCompletion() (out []string) {
	for _, k := range pack.Keys() {
		out = append(out, k+"=")
	}
	return out
}

// packing is a directory that was looked at, and how it is to be packed.
type packing struct {
	inventory pack.Inventory
	facts     inspect.Facts
	problems  []inspect.Problem
	config    pack.Config
	options   pack.Options
}

// read looks at the directory. Mistakes in flags are usage errors.
func (p *packFlags) read(dir string) (packing, error) {
	return p.inventory(func(o pack.ScanOptions) (pack.Inventory, error) { return pack.Scan(dir, o) }, func(*pack.Config) {})
}

// inventory looks at what list finds. The config is what the files say, then what amend makes of it, then --set.
func (p *packFlags) inventory(list func(pack.ScanOptions) (pack.Inventory, error), amend func(*pack.Config)) (packing, error) {
	var out packing
	scan, err := p.parse(&out.options)
	if err != nil {
		return out, &usageError{err}
	}
	// Settings are tried before anything is read, so that a slip of the pen is found at once.
	var probe pack.Config
	for _, s := range p.settings {
		if err := probe.Set(s); err != nil {
			return out, usagef("--set %w", err)
		}
	}
	if out.inventory, err = list(scan); err != nil {
		return out, err
	}
	out.facts, out.problems = inspect.Describe(out.inventory.Inspectable())
	out.config = pack.FromFacts(out.facts)
	amend(&out.config)
	for _, s := range p.settings {
		if err := out.config.Set(s); err != nil {
			return out, usagef("--set %w", err)
		}
	}
	return out, nil
}

func (p *packFlags) parse(o *pack.Options) (pack.ScanOptions, error) {
	scan := pack.ScanOptions{Hidden: p.hidden, FollowOutside: p.followLinks}
	var err error
	if o.Names, err = pack.ParseNames(p.spec); err != nil {
		return scan, fmt.Errorf("--spec: %w", err)
	}
	for _, s := range p.categories {
		override, err := pack.ParseOverride(s)
		if err != nil {
			return scan, fmt.Errorf("--category: %w", err)
		}
		scan.Overrides = append(scan.Overrides, override)
	}
	o.Archive = map[pack.Category]pack.Archive{}
	for _, s := range p.archives {
		if err := setArchive(o.Archive, s); err != nil {
			return scan, fmt.Errorf("--archive: %w", err)
		}
	}
	for _, s := range p.annotations {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return scan, fmt.Errorf("--annotation %q is not of the form key=value: %w", s, model.ErrInvalid)
		}
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[key] = value
	}
	if o.Jobs = p.jobs; p.jobs < 0 {
		return scan, fmt.Errorf("--jobs %d is negative: %w", p.jobs, model.ErrInvalid)
	}
	return scan, nil
}

func setArchive(archives map[pack.Category]pack.Archive, s string) error {
	categories := pack.Categories
	name, archive, ok := strings.Cut(s, "=")
	if ok {
		c, err := pack.ParseCategory(name)
		if err != nil {
			return err
		}
		categories = []pack.Category{c}
	} else {
		archive = s
	}
	a, err := pack.ParseArchive(archive)
	for _, c := range categories {
		archives[c] = a
	}
	return err
}

// announce tells what a person should know before bytes move, and fails where the weights are not whole.
func (p *packFlags) announce(w io.Writer, quiet bool, in packing) error {
	var faults []error
	for _, problem := range in.problems {
		broken := errors.Is(problem, model.ErrCorrupt) || errors.Is(problem, model.ErrNotFound)
		if broken && !p.force {
			faults = append(faults, problem)
		} else if !quiet {
			_, _ = fmt.Fprintf(w, "warning: %v\n", problem)
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w\n(--force packs it all the same)", errors.Join(faults...))
	}
	if quiet {
		return nil
	}
	if n := len(in.inventory.Skipped); n > 0 {
		const shown = 5
		var names []string
		for _, s := range in.inventory.Skipped[:min(n, shown)] {
			names = append(names, fmt.Sprintf("%s (%s)", s.Path, s.Why))
		}
		if n > shown {
			names = append(names, fmt.Sprintf("and %d more", n-shown))
		}
		_, _ = fmt.Fprintf(w, "skipped: %s\n", strings.Join(names, ", "))
	}
	const shown = 10
	unknown := 0
	for _, f := range in.inventory.Files {
		if !f.Untested {
			continue
		}
		if unknown++; unknown <= shown {
			_, _ = fmt.Fprintf(w, "no rule knows what %s is; it is packed as %s\n", f.Path, f.Category)
		}
	}
	if unknown > shown {
		_, _ = fmt.Fprintf(w, "and %d more that no rule knows\n", unknown-shown)
	}
	_, _ = fmt.Fprintf(w, "%d files, %s%s\n", len(in.inventory.Files), bytesText(in.inventory.Bytes()), described(in.facts))
	return nil
}

// described is one line about the model.
func described(f inspect.Facts) string {
	words := slices.DeleteFunc([]string{f.Family, inspect.ParamSize(f.Parameters), f.Precision, f.Quantization, f.Format}, func(s string) bool { return s == "" })
	if len(words) == 0 {
		return ""
	}
	return ": " + strings.Join(words, " ")
}
