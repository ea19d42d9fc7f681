package pull

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
)

// Mount is a further reference in the tree of a request.
type Mount struct {
	// Path is the directory of the tree that shows the model, in clean form. In a layout with names it is the model's
	// name there instead.
	Path string
	Ref  model.Ref
}

// maxMounts is several times what fits into the attributes of a volume, and bounds what one request starts.
const maxMounts = 100

// ParseMounts reads mounts as users write them: path=reference, separated by commas or line ends. Spaces around them,
// empty ones and lines that start with "#" are dropped. The path ends at the first "=". It fails with
// model.ErrInvalid, naming the mount.
func ParseMounts(s string) ([]Mount, error) {
	var out []Mount
	for field := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		field = strings.TrimSpace(field)
		if field == "" || strings.HasPrefix(field, "#") {
			continue
		}
		at, reference, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("mount %.100q must be path=reference: %w", field, model.ErrInvalid)
		}
		m := Mount{Path: strings.TrimSpace(at)}
		var err error
		if m.Ref, err = model.ParseRef(strings.TrimSpace(reference)); err != nil {
			return nil, fmt.Errorf("mount %.100q: %w", at, err)
		}
		if out = append(out, m); len(out) > maxMounts {
			return nil, fmt.Errorf("more than %d mounts: %w", maxMounts, model.ErrInvalid)
		}
	}
	return out, nil
}

// Check finds what is wrong with a request before anybody is asked. It fails with model.ErrInvalid.
func (r Request) Check() error {
	if _, err := newSelection(r.Include, r.Exclude); err != nil {
		return err
	}
	// What a name of a model registry stands for is not known yet.
	if _, err := r.Layout.Name(r.LayoutName, r.Ref); err != nil && (r.LayoutName != "" || r.Ref.Scheme != model.SchemeModelRegistry) {
		return fmt.Errorf("the model's name in layout %q: %w", r.Layout, err)
	}
	if r.Layout == LayoutOllama && len(r.Include)+len(r.Exclude) > 0 {
		return fmt.Errorf("layout %q needs all files, so that none can be included or excluded: %w", r.Layout, model.ErrInvalid)
	}
	if len(r.Mounts) > maxMounts {
		return fmt.Errorf("more than %d mounts: %w", maxMounts, model.ErrInvalid)
	}
	for i, m := range r.Mounts {
		if err := r.checkMount(m, r.Mounts[:i]); err != nil {
			return fmt.Errorf("mount %.100q: %w", m.Path, err)
		}
	}
	return nil
}

// checkMount checks one mount and compares it with those before it.
func (r Request) checkMount(m Mount, before []Mount) error {
	if r.Layout != LayoutFlat {
		_, err := r.Layout.Name(m.Path, m.Ref)
		return err // that names differ shows when the trees are merged
	}
	clean, err := model.CleanPath(m.Path)
	if err != nil {
		return err
	}
	if clean != m.Path {
		return fmt.Errorf("the path is not in its clean form %q: %w", clean, model.ErrInvalid)
	}
	for _, other := range before {
		if other.Path == m.Path || strings.HasPrefix(m.Path, other.Path+"/") || strings.HasPrefix(other.Path, m.Path+"/") {
			return fmt.Errorf("it overlaps with mount %.100q: %w", other.Path, model.ErrInvalid)
		}
	}
	return nil
}

// parts are the references of a request as requests of their own: the one of its root and one for each mount. What is
// asked for beyond a reference is meant for the root: patterns and variants say nothing about another model.
func (r Request) parts() []Request {
	root := r
	root.Mounts = nil
	out := []Request{root}
	for _, m := range r.Mounts {
		part := r.about(m.Ref, r.Keychain)
		part.Layout, part.dir = r.Layout, m.Path
		if r.Layout != LayoutFlat {
			part.LayoutName, part.dir = m.Path, ""
		}
		if m.Ref.Authority() != r.Ref.Authority() {
			// A credential that names no registry was made for the one of the reference.
			part.Keychain = namedOnly{r.Keychain}
		}
		out = append(out, part)
	}
	return out
}

// about is the request of the same caller for another reference: for all of it, as it is.
func (r Request) about(ref model.Ref, keys model.Keychain) Request {
	r.Ref, r.Keychain, r.Want = ref, keys, model.Selection{Node: r.Want.Node}
	r.Include, r.Exclude, r.Mounts = nil, nil, nil
	r.Layout, r.LayoutName, r.dir = LayoutFlat, "", ""
	return r
}

// part is one planned reference of a job.
type part struct {
	request Request
	access  access
	// prefix makes the names of the part's origins its own.
	prefix string
	plan   format.Plan
	keep   selection
	hub    *format.HubCache // of LayoutHub
	// identity is the same for all who want the same tree of the same manifest.
	identity []string
}

// title says for people which part it is.
func (p part) title() string {
	if p.prefix == "" {
		return p.request.Ref.String()
	}
	return fmt.Sprintf("mount %s=%s", cmp.Or(p.request.dir, p.request.LayoutName), p.request.Ref)
}

// needed lists the layers to fetch, with their origins by the names that the job knows them by.
func (p part) needed() []format.Layer {
	layers := p.plan.Needed(p.keep.keep)
	if p.prefix != "" {
		layers = slices.Clone(layers)
		for i := range layers {
			layers[i].Origin = p.prefix + layers[i].Origin
		}
	}
	return layers
}

// inline lists the files that come with the manifest or with the layout.
func (p part) inline() []format.InlineFile {
	if p.hub == nil {
		return p.plan.Inline
	}
	return slices.Concat(p.plan.Inline, p.hub.Refs())
}

// tree makes the part's tree, arranged by its layout.
func (p part) tree(members format.Members) (model.Tree, error) {
	t, err := p.plan.Tree(members, p.keep.keep)
	if err != nil || p.hub == nil {
		return t, err
	}
	return p.hub.Tree(t)
}

// needed lists the layers that the job's tree needs, each once.
func (j *job) needed() []format.Layer {
	if len(j.parts) == 1 {
		return j.parts[0].needed()
	}
	type key struct {
		blob model.Blob
		how  string
	}
	seen := make(map[key]bool)
	var out []format.Layer
	for _, p := range j.parts {
		for _, l := range p.needed() {
			// Whoever may read one of the artifacts that hold a blob may read the blob: the caller named them all.
			k := key{blob: l.Blob}
			if unpacked(l) {
				k.how = memberRecord(l)
			}
			if !seen[k] {
				seen[k] = true
				out = append(out, l)
			}
		}
	}
	return out
}

// mounts are the parts besides the root, as they were found.
func (j *job) mounts() []Mount {
	var out []Mount
	for _, p := range j.parts[1:] {
		out = append(out, Mount{Path: cmp.Or(p.request.dir, p.request.LayoutName), Ref: p.request.Ref.Pinned(p.access.snapshot.Digest)})
	}
	return out
}

// title says for people what the job pulls.
func (j *job) title() string {
	switch n := len(j.parts) - 1; n {
	case 0:
		return j.ref.String()
	case 1:
		return j.ref.String() + " and its mount"
	default:
		return fmt.Sprintf("%s and its %d mounts", j.ref, n)
	}
}
