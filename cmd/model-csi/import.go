package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// importOptions are the flags of import.
type importOptions struct {
	packFlags
	look             lookOptions
	mountFrom        []string
	include, exclude []string
}

func newImportCommand() *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import SOURCE TARGET",
		Short: "Pack any readable model anew as ModelPack, into a registry",
		Long: `Pack a model that can be mounted, from wherever it is, as a CNCF ModelPack artifact with one layer for each file: from the
Hugging Face Hub, Ollama, KitOps, ORAS, Docker Model Runner, container images, or ModelPack itself with archives.

The files are those that a volume shows, and their bytes do not change. A file that is a blob of its own at the source passes
from there to the target without being stored, and within one registry it is mounted instead; archives are unpacked in the
temporary directory (TMPDIR). The config is filled in as push does it, from the files; what a ModelPack config of the source
says goes before that, and --set before all. Symbolic links become what they lead to.

The same source gives the same digest, wherever it is imported from and to.`,
		Example: `  model-csi import hf://Qwen/Qwen3-8B registry.example.com/models/qwen3:8b
  model-csi import --include '*.gguf' hf://Qwen/Qwen3-8B-GGUF registry.example.com/models/qwen3-gguf:8b
  model-csi import ollama://qwen3:8b registry.example.com/models/qwen3-ollama:8b`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0], args[1]) },
	}
	o.look.bind(cmd)
	bindOutput(cmd, &o.look.output)
	f := cmd.Flags()
	f.StringVar(&o.spec, "spec", string(pack.ModelPack), "`names` to write: modelpack, or cnai for tools of early 2025")
	f.StringArrayVar(&o.categories, "category", nil, "put files into a category against the rules, as `'glob=category'`: weight, weight.config, doc, code or dataset (repeatable)")
	f.StringArrayVar(&o.settings, "set", nil, "set a field of the model's config, as `key=value`; an empty value removes it (repeatable)")
	f.StringArrayVar(&o.annotations, "annotation", nil, "annotate the manifest, as `key=value` (repeatable)")
	f.StringSliceVar(&o.include, "include", nil, "`patterns` of the files to import, as in .gitignore; default all")
	f.StringSliceVar(&o.exclude, "exclude", nil, "`patterns` of files to leave out")
	f.StringArrayVar(&o.mountFrom, "mount-from", nil, "another `repository` of the target's registry whose blobs may be used (repeatable)")
	f.BoolVar(&o.force, "force", false, "import weights that are not whole all the same")
	f.IntVarP(&o.jobs, "jobs", "j", 0, "how many files are read and sent at once (default 4, or the `number` of processors)")
	return cmd
}

func (o *importOptions) run(cmd *cobra.Command, from, to string) (err error) {
	target, err := targetRef(to)
	if err != nil {
		return err
	}
	if _, err := model.ParseRef(from); err != nil {
		return &usageError{err}
	}
	ctx := cmd.Context()
	dir, err := os.MkdirTemp("", "model-csi-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := o.look.open(dir, quietLogger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	a, p, err := o.read(cmd, s, from)
	if err != nil {
		return interrupted(ctx, err)
	}
	if p.options.MountFrom, err = mountSources(target, o.mountFrom); err != nil {
		return &usageError{err}
	}
	if a.Ref.Registry == target.Registry && a.Ref.Scheme == model.SchemeOCI {
		p.options.MountFrom = append([]string{a.Ref.Repository}, p.options.MountFrom...)
	}
	if err := o.announce(cmd.ErrOrStderr(), o.look.quiet, p); err != nil {
		return err
	}
	registries, err := terminalRegistries(o.look.configDir, o.look.plainHTTP)
	if err != nil {
		return err
	}
	cred, err := terminalCredential(ctx, target)
	if err != nil {
		return err
	}
	pusher, err := registries.Pusher(target, cred, registry.PushOptions{})
	if err != nil {
		return err
	}
	r, err := pushWithProgress(cmd, o.look.quiet, p, pusher)
	if err != nil {
		return err
	}
	answer := packed{Reference: pushedAs(target, r.Digest), Result: r}
	return printResult(cmd.OutOrStdout(), o.look.output, answer, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, answer.Reference)
		return err
	})
}

// read looks at the source and lists what there is to pack.
func (o *importOptions) read(cmd *cobra.Command, s *session, from string) (*pull.Artifact, packing, error) {
	var p packing
	r, err := s.request(from)
	if err != nil {
		return nil, p, err
	}
	r.Include, r.Exclude = o.include, o.exclude
	var a *pull.Artifact
	p, err = o.inventory(func(scan pack.ScanOptions) (pack.Inventory, error) {
		if a, err = s.puller.Inspect(cmd.Context(), r); err != nil {
			return pack.Inventory{}, err
		}
		stop := showProgress(cmd.ErrOrStderr(), o.look.quiet, s.transfers)
		tree, err := a.Unpack(cmd.Context())
		stop()
		if err != nil {
			return pack.Inventory{}, err
		}
		return pack.Files(remoteFiles(cmd.Context(), a, tree), scan)
	}, func(c *pack.Config) {
		if a.Plan.Format == "modelpack" || a.Plan.Format == "cnai" {
			c.Inherit(a.Snapshot.Config)
		}
	})
	return a, p, err
}

// The modes of what is imported: what is in an artifact cannot be told from what was packed from a directory.
const (
	importedFile = 0o644
	importedExec = 0o755
)

// remoteFiles lists the regular files of a tree, with what symbolic links lead to in their place.
func remoteFiles(ctx context.Context, a *pull.Artifact, tree model.Tree) (out []pack.File) {
	for _, f := range tree {
		if f.Mode.IsDir() {
			continue
		}
		content, err := lookup(tree, f.Path)
		if err != nil {
			// A link to a directory shows files that are there under their own names, and one that leads nowhere shows none.
			continue
		}
		mode := fs.FileMode(importedFile)
		if content.Executable() {
			mode = importedExec
		}
		out = append(out, pack.File{Path: f.Path, Size: content.Blob.Size, Mode: mode, Content: &pack.Remote{
			Blob: content.Blob, Open: a.Stream(content),
			Inspect: func() (inspect.ReadAtCloser, error) { return inspectable(ctx, a, content) },
		}})
	}
	return out
}

// wholeBelow is the size up to which a text is read as a whole, and verified.
const wholeBelow = 16 << 20

// inspectable opens a file of an artifact for what describes the model: texts as a whole, the headers of weights by
// ranges.
func inspectable(ctx context.Context, a *pull.Artifact, f model.File) (inspect.ReadAtCloser, error) {
	if f.Blob.Size > wholeBelow || inspect.FormatOf(f.Path) != "" {
		r, err := a.ReaderAt(ctx, f)
		if err != nil {
			return nil, err
		}
		if c, ok := r.(inspect.ReadAtCloser); ok {
			return c, nil
		}
		return readAtNopCloser{r}, nil
	}
	body, err := a.Open(ctx, f)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	return readAtNopCloser{bytes.NewReader(data)}, nil
}

type readAtNopCloser struct{ io.ReaderAt }

// Close implements io.Closer.
func (readAtNopCloser) Close() error { return nil }
