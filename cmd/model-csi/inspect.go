package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/admin"
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
	Bytes int64 `json:"bytes"`
	// Cached is what this node has of them; nil where that is not known, for the reason in unasked.
	Cached  *cachedPart   `json:"cached,omitempty"`
	unasked string        // empty where there is no node to ask
	Layers  []layerOf     `json:"layers"`
	Files   []fileOf      `json:"files,omitempty"`
	Notes   []string      `json:"notes,omitempty"`
	Config  any           `json:"config,omitempty"`
	Tensor  []fileTensors `json:"tensors,omitempty"`
}

// cachedPart is what the cache of a node has of an artifact, in layers that it has as a whole.
type cachedPart struct {
	Bytes  int64 `json:"bytes"`
	Layers int   `json:"layers"`
}

type layerOf struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	MediaType string        `json:"mediaType"`
	Path      string        `json:"path,omitempty"`
	Archive   bool          `json:"archive,omitempty"`
	// Origin is the artifact that holds the layer, where it is another one.
	Origin string `json:"origin,omitempty"`
	// Cached says that this node is known to have it.
	Cached bool `json:"cached,omitempty"`
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
	var root string
	cmd := &cobra.Command{
		Use:   "inspect REFERENCE",
		Short: "Show what an artifact is and holds, without downloading it",
		Long: `Show an artifact's digest, format, size, description and files. Only the manifest and the config are fetched. The files in
archives are not known without reading them: "model-csi ls" does that.

On a node, root is also told how many of the bytes are in the node's cache already: the daemon is asked, where one runs.

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
				i.addCached(askCached(ctx, root, a.Pieces()))
				return printResult(cmd.OutOrStdout(), o.output, i, i.print)
			})
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	cmd.Flags().StringVar(&root, "root", defaultRoot, "state `directory` of the daemon that is asked what is cached")
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

// daemonPatience is how long the daemon may take to say what it has. It looks at a file for each layer; whoever asks
// about an artifact shall not wait for a node that hangs.
const daemonPatience = 5 * time.Second

func askCached(ctx context.Context, root string, pieces []pull.Piece) ([]bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, daemonPatience, errors.New("the daemon does not answer"))
	defer cancel()
	has, err := admin.NewClient(root).Has(ctx, pieces)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return has, err
}

// addCached adds what a daemon said of each layer, or why it did not. Where there is no daemon, as on a laptop, nothing
// is said of it.
func (i *inspection) addCached(has []bool, err error) {
	switch {
	case errors.Is(err, model.ErrUnavailable):
		return
	case err != nil:
		i.unasked = err.Error()
		return
	}
	i.Cached = &cachedPart{}
	for n, h := range has {
		if l := &i.Layers[n]; h {
			l.Cached = true
			i.Cached.Layers++
			i.Cached.Bytes += l.Size
		}
	}
}

// cachedText is addCached in words; empty where there is nothing to say.
func (i *inspection) cachedText() string {
	switch c := i.Cached; {
	case c == nil && i.unasked == "":
		return ""
	case c == nil:
		return "unknown: " + i.unasked
	case c.Layers == 0:
		return "nothing"
	case c.Layers == len(i.Layers):
		return "everything"
	default:
		return fmt.Sprintf("%s in %d layers", bytesText(c.Bytes), c.Layers)
	}
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
	if text := i.cachedText(); text != "" {
		line("cached here", "%s", text)
	}
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
