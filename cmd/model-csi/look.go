package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

// inspection is what inspect says about an artifact.
type inspection struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Index     digest.Digest `json:"index,omitempty"`
	MediaType string        `json:"mediaType"`
	Format    string        `json:"format"`
	// Bytes of all layers, as they are transferred.
	Bytes  int64         `json:"bytes"`
	Layers []layerOf     `json:"layers"`
	Files  []fileOf      `json:"files,omitempty"`
	Notes  []string      `json:"notes,omitempty"`
	Config any           `json:"config,omitempty"`
	Tensor []fileTensors `json:"tensors,omitempty"`
}

type layerOf struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	MediaType string        `json:"mediaType"`
	Path      string        `json:"path,omitempty"`
	Archive   bool          `json:"archive,omitempty"`
	// Origin is the artifact that holds the layer, where it is another one.
	Origin string `json:"origin,omitempty"`
}

type fileOf struct {
	Path   string        `json:"path"`
	Mode   string        `json:"mode"`
	Size   int64         `json:"size"`
	Digest digest.Digest `json:"digest,omitempty"`
	Link   string        `json:"link,omitempty"`
}

type fileTensors struct {
	Path    string           `json:"path"`
	Tensors []inspect.Tensor `json:"tensors"`
}

func newInspectCommand() *cobra.Command {
	var o lookOptions
	var tensors bool
	cmd := &cobra.Command{
		Use:   "inspect REFERENCE",
		Short: "Show what an artifact is and holds, without downloading it",
		Long: `Show an artifact's digest, format, size, description and files. Only the manifest and the config are fetched. The files in
archives are not known without reading them: "model-csi ls" does that.

With --tensors, the headers of safetensors and GGUF files are fetched by range requests, and their tensors listed: names,
types and shapes. Parts of files cannot be verified, so they are for people to look at.`,
		Example: `  model-csi inspect registry.example.com/models/qwen3:8b
  model-csi inspect --tensors hf://Qwen/Qwen3-8B
  model-csi inspect -o json registry.example.com/models/qwen3:8b | jq .bytes`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.look(cmd, args[0], func(ctx context.Context, a *pull.Artifact) error {
				i, err := inspected(ctx, a, tensors)
				if err != nil {
					return err
				}
				return printResult(cmd.OutOrStdout(), o.output, i, i.print)
			})
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list the tensors of safetensors and GGUF files")
	return cmd
}

func inspected(ctx context.Context, a *pull.Artifact, tensors bool) (*inspection, error) {
	i := &inspection{
		Reference: a.Ref.String(), Digest: a.Snapshot.Digest, Index: a.Snapshot.Index, MediaType: a.Snapshot.MediaType,
		Format: a.Plan.Format, Notes: a.Plan.Notes, Layers: []layerOf{},
	}
	for _, l := range a.Layers() {
		i.Bytes += l.Blob.Size
		i.Layers = append(i.Layers, layerOf{Digest: l.Blob.Digest, Size: l.Blob.Size, MediaType: l.MediaType, Path: cmp.Or(l.Path, l.Annotation),
			Archive: l.Archive || l.Compressed, Origin: l.Origin})
	}
	if err := json.Unmarshal(a.Snapshot.Config, &i.Config); err != nil {
		i.Config = nil // a config that is not JSON says nothing to anybody
	}
	if a.Opaque() && !tensors {
		return i, nil
	}
	tree, err := a.Tree(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range tree {
		i.Files = append(i.Files, fileText(f))
	}
	if tensors {
		i.Tensor, err = tensorsOf(ctx, a, tree)
	}
	return i, err
}

func fileText(f model.File) fileOf {
	return fileOf{Path: f.Path, Mode: f.Mode.String(), Size: f.Blob.Size, Digest: f.Blob.Digest, Link: f.Link}
}

// tensorsOf reads the headers of the files that have some.
func tensorsOf(ctx context.Context, a *pull.Artifact, tree model.Tree) (out []fileTensors, err error) {
	for _, f := range tree {
		read := inspect.ReadSafetensors
		switch inspect.FormatOf(f.Path) {
		case inspect.FormatSafetensors:
		case inspect.FormatGGUF:
			read = inspect.ReadGGUF
		default:
			continue
		}
		if !f.Mode.IsRegular() {
			continue
		}
		r, err := a.ReaderAt(ctx, f)
		if err != nil {
			return nil, err
		}
		weights, err := read(r, f.Blob.Size)
		if c, ok := r.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", a.Ref, f.Path, err)
		}
		out = append(out, fileTensors{f.Path, weights.Tensors})
	}
	return out, nil
}

func (i *inspection) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(t, name+":\t"+format+"\n", args...)
	}
	line("reference", "%s", i.Reference)
	line("digest", "%s", i.Digest)
	if i.Index != "" {
		line("from index", "%s", i.Index)
	}
	line("format", "%s", i.Format)
	line("size", "%s in %d layers", bytesText(i.Bytes), len(i.Layers))
	for _, d := range describe(i.Config) {
		line(d[0], "%s", d[1])
	}
	for _, n := range i.Notes {
		line("note", "%s", n)
	}
	_, _ = fmt.Fprintln(t)
	if i.Files == nil {
		_, _ = fmt.Fprintln(t, "LAYER\tSIZE\tTYPE\tDIGEST")
		for _, l := range i.Layers {
			name := l.Path
			if l.Archive {
				name = "archive " + l.Path
			}
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", strings.TrimSpace(name), bytesText(l.Size), l.MediaType, l.Digest)
		}
	} else {
		_, _ = fmt.Fprintln(t, "FILE\tSIZE\tDIGEST")
		for _, f := range i.Files {
			name := f.Path
			if f.Link != "" {
				name += " -> " + f.Link
			}
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", name, bytesText(f.Size), f.Digest)
		}
	}
	for _, f := range i.Tensor {
		_, _ = fmt.Fprintf(t, "\nTENSOR of %s\tTYPE\tSHAPE\n", f.Path)
		for _, x := range f.Tensors {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%v\n", x.Name, x.Type, x.Shape)
		}
	}
	return t.Flush()
}

// describe picks from a ModelPack config what tells people most.
func describe(config any) (out [][2]string) {
	top, _ := config.(map[string]any)
	for _, at := range []struct {
		section string
		keys    []string
	}{
		{"descriptor", []string{"name", "family", "version", "vendor", "licenses", "description"}},
		{"config", []string{"architecture", "format", "paramSize", "precision", "quantization"}},
	} {
		section, _ := top[at.section].(map[string]any)
		for _, key := range at.keys {
			switch v := section[key].(type) {
			case string:
				if v != "" {
					out = append(out, [2]string{key, v})
				}
			case []any:
				if len(v) > 0 {
					out = append(out, [2]string{key, strings.Trim(fmt.Sprint(v), "[]")})
				}
			}
		}
	}
	return out
}

func newLsCommand() *cobra.Command {
	var o lookOptions
	var long bool
	cmd := &cobra.Command{
		Use:   "ls REFERENCE [PATH]",
		Short: "List the files of an artifact, as a mount shows them",
		Long: `List the files that a volume of the reference would show, below PATH if it is given. For artifacts with archives the
archives are downloaded and verified, because nothing else says what is in them; nothing is kept.`,
		Example: `  model-csi ls registry.example.com/models/qwen3:8b
  model-csi ls -l hf://Qwen/Qwen3-8B`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.files(cmd, args, func(tree model.Tree) error {
				files := make([]fileOf, 0, len(tree))
				for _, f := range tree {
					files = append(files, fileText(f))
				}
				return printResult(cmd.OutOrStdout(), o.output, files, func(w io.Writer) error { return printFiles(w, tree, long) })
			})
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, size and digest")
	return cmd
}

func printFiles(w io.Writer, tree model.Tree, long bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range tree {
		name := f.Path
		if f.Link != "" {
			name += " -> " + f.Link
		}
		if long {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%.19s\t", f.Mode, bytesText(f.Blob.Size), f.Blob.Digest)
		}
		_, _ = fmt.Fprintln(t, name)
	}
	return t.Flush()
}

func newTreeCommand() *cobra.Command {
	var o lookOptions
	cmd := &cobra.Command{
		Use:   "tree REFERENCE [PATH]",
		Short: "Draw the files of an artifact as a tree",
		Long: `Draw the files that a volume of the reference would show, below PATH if it is given, as a tree with sizes. Archives are
downloaded and verified for it, and not kept.`,
		Example:           `  model-csi tree registry.example.com/models/qwen3:8b`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.files(cmd, args, func(tree model.Tree) error {
				_, err := io.WriteString(plain{cmd.OutOrStdout()}, drawTree(args[0], tree))
				return err
			})
		},
	}
	o.bind(cmd)
	return cmd
}

// drawTree draws the tree as tree(1) does.
func drawTree(root string, tree model.Tree) string {
	children := map[string][]string{}
	files := map[string]model.File{}
	seen := map[string]bool{}
	for _, f := range tree {
		files[f.Path] = f
		for p := f.Path; p != "." && !seen[p]; p = path.Dir(p) {
			seen[p] = true
			children[path.Dir(p)] = append(children[path.Dir(p)], p)
		}
	}
	var b strings.Builder
	b.WriteString(root + "\n")
	var draw func(dir, indent string)
	draw = func(dir, indent string) {
		slices.Sort(children[dir])
		for i, p := range children[dir] {
			branch, next := "├── ", "│   "
			if i == len(children[dir])-1 {
				branch, next = "└── ", "    "
			}
			b.WriteString(indent + branch + path.Base(p))
			switch f := files[p]; {
			case f.Link != "":
				b.WriteString(" -> " + f.Link)
			case f.Mode.IsRegular() && f.Path != "":
				b.WriteString("  " + bytesText(f.Blob.Size))
			}
			b.WriteString("\n")
			draw(p, indent+next)
		}
	}
	draw(".", "")
	fmt.Fprintf(&b, "%d files, %s\n", regular(tree), bytesText(tree.Size()))
	return b.String()
}

func regular(tree model.Tree) (n int) {
	for _, f := range tree {
		if f.Mode.IsRegular() {
			n++
		}
	}
	return n
}
