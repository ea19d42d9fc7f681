package format

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// Tree puts the plan's files in their places: raw layers at their paths, the members of archive layers at theirs, the
// later layer winning where two hold the same path. members must know every archive that [Plan.Needed] lists. keep
// selects files and links by their path; nil keeps all, and directories that it leaves empty go too.
//
// It fails with model.ErrUnsupported while the plan has Parents, because the tree would lack the model itself, and with
// model.ErrInvalid when an archive holds something that a model cannot have (special files, links that
// leave the model's directory, names that do) or when the same path is a file and a directory.
func (p Plan) Tree(members Members, keep func(path string) bool) (model.Tree, error) {
	if len(p.Parents) > 0 {
		return nil, fmt.Errorf("the model is in %s, which the artifact refers to and which was not followed: %w", strings.Join(p.Parents, ", "), model.ErrUnsupported)
	}
	files, err := p.files(members)
	if err != nil {
		return nil, err
	}
	files = strip(files, p.Strip)
	if keep != nil {
		files = filter(files, keep)
	}
	t, err := model.NewTree(files)
	if err != nil {
		return nil, err
	}
	if len(t.Blobs()) == 0 {
		if keep != nil {
			return nil, fmt.Errorf("the selection by paths leaves no file of the model: %w", model.ErrInvalid)
		}
		return nil, fmt.Errorf("the artifact holds no file: %w", model.ErrInvalid)
	}
	return t, nil
}

func (p Plan) files(members Members) ([]model.File, error) {
	if p.RootFS {
		return p.rootFS(members)
	}
	at := map[string]model.File{}
	for _, f := range p.Inline {
		at[f.Path] = model.File{Path: f.Path, Mode: f.Mode.Perm(), Blob: f.Blob()}
	}
	for _, l := range p.Layers {
		files, err := l.files(members)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Blob.Digest, err)
		}
		for _, f := range files {
			at[f.Path] = f
		}
	}
	out := make([]model.File, 0, len(at))
	for _, f := range at {
		out = append(out, f)
	}
	return out, nil
}

// files lists what one layer holds; paths can repeat.
func (l Layer) files(members Members) ([]model.File, error) {
	if !l.Archive && !l.Compressed {
		return []model.File{{Path: l.Path, Mode: l.Mode.Perm(), Blob: l.Blob}}, nil
	}
	list := members(l.Blob.Digest)
	if len(list) == 1 && list[0].Name == "" {
		if l.Path == "" {
			return nil, fmt.Errorf("it is called %s and is no tar archive: %w", clip(l.MediaType), model.ErrInvalid)
		}
		return []model.File{{Path: l.Path, Mode: l.Mode.Perm(), Blob: list[0].Blob}}, nil
	}
	if l.Compressed && !l.Archive {
		return nil, fmt.Errorf("it must hold one compressed file and has %d members: %w", len(list), model.ErrInvalid)
	}
	files := make([]model.File, 0, len(list))
	inArchive := make(map[string]model.File, len(list)) // by the name in the archive, which hard links use
	regular, single := 0, 0
	for _, m := range list {
		name, ok, err := memberName(m.Name)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		f, err := memberFile(m, name, inArchive)
		if err != nil {
			return nil, err
		}
		inArchive[name] = f
		if f.Mode.IsRegular() {
			regular, single = regular+1, len(files)
		}
		if l.Prefix != "" {
			f.Path = l.Prefix + "/" + f.Path
		}
		files = append(files, f)
	}
	// Some producers store a file under its base name and its directory in the annotation alone. With several files
	// the annotation is a category or a directory, with another name the archive knows better.
	if regular == 1 && strings.Contains(l.Annotation, "/") && files[single].Path == path.Base(l.Annotation) {
		files[single].Path = l.Annotation
	}
	return files, nil
}

// memberName cleans the name of an archive's member; ok is false for the archive's root itself.
func memberName(name string) (clean string, ok bool, err error) {
	if name != "" && strings.Trim(name, "./") == "" && !strings.Contains(name, "..") && name[0] != '/' {
		return "", false, nil
	}
	clean, err = model.CleanPath(name)
	return clean, err == nil, err
}

// memberFile is what a member becomes at name. Hard links become the file that they link to, which must be earlier in
// the same archive.
func memberFile(m model.Member, name string, earlier map[string]model.File) (model.File, error) {
	f := model.File{Path: name, Mode: m.Mode.Type() | m.Mode.Perm(), Blob: m.Blob, Link: m.Link}
	switch {
	case m.Hard:
		target, ok, err := memberName(m.Link)
		if err != nil {
			return model.File{}, fmt.Errorf("hard link %q: %w", name, err)
		}
		linked, found := earlier[target]
		if !ok || !found || linked.Mode.IsDir() {
			return model.File{}, fmt.Errorf("hard link %q -> %q does not lead to an earlier file of the archive: %w", name, clip(m.Link), model.ErrInvalid)
		}
		linked.Path = name
		return linked, nil
	case f.Mode.Type() == fs.ModeSymlink:
		return f, checkLink(name, m.Link)
	case f.Mode.IsRegular(), f.Mode.IsDir():
		return f, nil
	}
	return model.File{}, fmt.Errorf("archive entry %q is a special file (%s); models have regular files, directories and links only: %w", name, f.Mode.Type(), model.ErrInvalid)
}

// strip leaves the directory dir out of the paths if everything lies in it.
func strip(files []model.File, dir string) []model.File {
	if dir == "" {
		return files
	}
	var out []model.File
	for _, f := range files {
		rest, below := strings.CutPrefix(f.Path, dir+"/")
		if !below {
			if f.Path == dir && f.Mode.IsDir() {
				continue
			}
			return files
		}
		f.Path = rest
		out = append(out, f)
	}
	return out
}

// filter keeps the files and links that keep accepts. A directory stays unless it loses all it has.
func filter(files []model.File, keep func(string) bool) []model.File {
	lost, kept := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		if f.Mode.IsDir() {
			continue
		}
		set := lost
		if keep(f.Path) {
			set = kept
		}
		for p := f.Path; p != "." && !set[p]; p = path.Dir(p) {
			set[p] = true
		}
	}
	out := files[:0]
	for _, f := range files {
		if kept[f.Path] || f.Mode.IsDir() && !lost[f.Path] {
			out = append(out, f)
		}
	}
	return out
}
