package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/internal/gitignore"
	"github.com/model-csi/model-csi/pkg/model"
)

// IgnoreFile is the name of the file with patterns of what is not packed, at the top of the directory.
const IgnoreFile = ".modelignore"

// maxFiles is far above what a manifest of 4 MiB can list.
const maxFiles = 100_000

// ScanOptions say what of a directory is packed. The zero value works.
type ScanOptions struct {
	// Hidden packs files and directories whose names begin with a dot. Default: they are skipped.
	Hidden bool
	// FollowOutside packs what symbolic links lead to outside of the directory. Default: such a link is refused.
	FollowOutside bool
	// Overrides of the rules for categories; the last that matches decides.
	Overrides []Override
}

// File is one file that is packed.
type File struct {
	// Path in the artifact: relative, slash separated.
	Path string
	Size int64
	// Mode has permission bits alone.
	Mode     fs.FileMode
	Category Category
	// Untested says that no rule knew the category.
	Untested bool
	// Content of a file that is not on disk; nil for those that Scan finds.
	Content *Remote

	// location is where the file is read, links resolved, and modified what its time was when it was found.
	location string
	modified time.Time
}

// Skipped is something that is not packed.
type Skipped struct {
	Path string
	Why  string
}

// Inventory is what there is to pack.
type Inventory struct {
	Dir string
	// Files sorted by path.
	Files []File
	// Skipped sorted by path.
	Skipped []Skipped
}

// Bytes is the size of all files.
func (inv Inventory) Bytes() (n int64) {
	for _, f := range inv.Files {
		n += f.Size
	}
	return n
}

// Inspectable lists the files for package inspect.
func (inv Inventory) Inspectable() []inspect.File {
	out := make([]inspect.File, 0, len(inv.Files))
	for _, f := range inv.Files {
		open := func() (inspect.ReadAtCloser, error) { return os.Open(f.location) }
		if f.Content != nil {
			open = f.Content.Inspect
		}
		out = append(out, inspect.File{Path: f.Path, Size: f.Size, Open: open})
	}
	return out
}

// Scan lists a directory. It fails with model.ErrInvalid, and says everything that is wrong, not only the first: special
// files, links that lead out of the directory or nowhere, paths that a model cannot have, a bad IgnoreFile.
func Scan(dir string, o ScanOptions) (Inventory, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Inventory{}, fmt.Errorf("directory %s: %w", dir, withoutPath(err))
	}
	if real, err = filepath.Abs(real); err != nil {
		return Inventory{}, fmt.Errorf("directory %s: %w", dir, err)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return Inventory{}, fmt.Errorf("%s is not a directory: %w", dir, model.ErrInvalid)
	}
	s := scanner{root: real, options: o, inventory: Inventory{Dir: dir}}
	if err := s.readIgnore(); err != nil {
		return Inventory{}, err
	}
	s.directory("", real)
	if len(s.faults) > 0 {
		return Inventory{}, errors.Join(s.faults...)
	}
	if len(s.inventory.Files) == 0 {
		return Inventory{}, fmt.Errorf("%s has no file to pack (%d skipped): %w", dir, len(s.inventory.Skipped), model.ErrInvalid)
	}
	slices.SortFunc(s.inventory.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(s.inventory.Skipped, func(a, b Skipped) int { return strings.Compare(a.Path, b.Path) })
	return s.inventory, nil
}

type scanner struct {
	root      string
	options   ScanOptions
	patterns  []gitignore.Pattern
	inventory Inventory
	faults    []error
}

// maxFaults is how many errors are worth reading at once.
const maxFaults = 20

func (s *scanner) fault(name, why string) {
	if len(s.faults) < maxFaults {
		s.faults = append(s.faults, fmt.Errorf("%s: %s: %w", name, why, model.ErrInvalid))
	}
}

func (s *scanner) skip(name, why string) {
	s.inventory.Skipped = append(s.inventory.Skipped, Skipped{name, why})
}

func (s *scanner) readIgnore() error {
	f, err := os.Open(filepath.Join(s.root, IgnoreFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", IgnoreFile, withoutPath(err))
	}
	defer func() { _ = f.Close() }()
	if s.patterns, err = gitignore.Read(f); err != nil {
		return fmt.Errorf("%s: %v: %w", IgnoreFile, err, model.ErrInvalid)
	}
	return nil
}

// directory walks what is called rel in the artifact and lies at location.
func (s *scanner) directory(rel, location string) {
	entries, err := os.ReadDir(location)
	if err != nil {
		s.fault(path.Join(s.inventory.Dir, rel), withoutPath(err).Error())
		return
	}
	for _, e := range entries {
		if len(s.inventory.Files) >= maxFiles {
			s.fault(s.inventory.Dir, fmt.Sprintf("it has more than %d files", maxFiles))
			return
		}
		s.entry(path.Join(rel, e.Name()), filepath.Join(location, e.Name()), e.Type()&fs.ModeSymlink != 0)
	}
}

func (s *scanner) entry(rel, location string, link bool) {
	if why := s.passedOver(rel, location); why != "" {
		s.skip(rel, why)
		return
	}
	if clean, err := model.CleanPath(rel); err != nil || clean != rel {
		s.fault(rel, fmt.Sprintf("it cannot be a path in a model: %v", err))
		return
	}
	if link {
		target, why := s.resolve(location)
		if why != "" {
			s.fault(rel, why)
			return
		}
		location = target
	}
	info, err := os.Lstat(location)
	switch {
	case err != nil:
		s.fault(rel, withoutPath(err).Error())
	case info.IsDir():
		s.directory(rel, location)
	case !info.Mode().IsRegular():
		s.fault(rel, fmt.Sprintf("it is a special file (%s); a model has regular files only: remove it or name it in %s", info.Mode().Type(), IgnoreFile))
	default:
		f := File{Path: rel, Size: info.Size(), Mode: info.Mode().Perm(), location: location, modified: info.ModTime()}
		f.Category, f.Untested = categorise(rel, f.Size, s.options.Overrides)
		s.inventory.Files = append(s.inventory.Files, f)
	}
}

// passedOver says why a path is skipped; empty when it is not.
func (s *scanner) passedOver(rel, location string) string {
	name := path.Base(rel)
	if rel == IgnoreFile || slices.Contains([]string{".git", ".hg", ".svn", ".DS_Store"}, name) {
		return "not part of the model"
	}
	info, err := os.Stat(location)
	directory := err == nil && info.IsDir()
	if ignored, decided := gitignore.Decide(s.patterns, rel, directory); decided {
		if ignored {
			return IgnoreFile
		}
		return ""
	}
	switch {
	case name == "__pycache__" || strings.HasSuffix(name, ".pyc"):
		return "compiled Python"
	case strings.HasPrefix(name, ".") && !s.options.Hidden:
		return "hidden"
	}
	return ""
}

// resolve follows a symbolic link, or says why it cannot be packed.
func (s *scanner) resolve(location string) (target, why string) {
	target, err := filepath.EvalSymlinks(location)
	if err != nil {
		return "", fmt.Sprintf("the symbolic link leads nowhere: %v", withoutPath(err))
	}
	inside := target == s.root || strings.HasPrefix(target, s.root+string(filepath.Separator))
	if !inside && !s.options.FollowOutside {
		return "", "the symbolic link leaves the directory; --follow-links packs what it leads to"
	}
	// A link to a directory above itself would be walked for ever.
	dir, err := filepath.EvalSymlinks(filepath.Dir(location))
	if err != nil || dir == target || strings.HasPrefix(dir, target+string(filepath.Separator)) {
		return "", "the symbolic link leads to a directory that it is in"
	}
	return target, ""
}

// withoutPath is the cause of an error of package os, whose text would repeat the path.
func withoutPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
