package format

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fixture is a directory of testdata: manifest.json, and where they exist config.json, members.json (by layer digest)
// and input.json. golden.txt is the plan and the tree, or the error, that they must give.
type fixture struct {
	dir     string
	in      Input
	keep    func(string) bool
	members map[digest.Digest][]model.Member
	parents map[string]string // reference to directory
}

// member is a model.Member as a person writes it.
type member struct {
	Name   string        `json:"name"`
	Type   string        `json:"type"` // file when empty
	Mode   string        `json:"mode"` // octal
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Link   string        `json:"link"`
}

var memberTypes = map[string]fs.FileMode{
	"": 0, "hard": 0, "dir": fs.ModeDir, "symlink": fs.ModeSymlink, "fifo": fs.ModeNamedPipe,
	"char": fs.ModeDevice | fs.ModeCharDevice, "block": fs.ModeDevice, "socket": fs.ModeSocket,
}

func (m member) model(t testing.TB) model.Member {
	mode, err := strconv.ParseUint(m.Mode, 8, 32)
	if err != nil && m.Mode != "" {
		t.Fatalf("member %s: %v", m.Name, err)
	}
	kind, ok := memberTypes[m.Type]
	if !ok {
		t.Fatalf("member %s: type %q is not known", m.Name, m.Type)
	}
	return model.Member{
		Name: m.Name, Mode: fs.FileMode(mode) | kind, Link: m.Link, Hard: m.Type == "hard",
		Blob: model.Blob{Digest: m.Digest, Size: m.Size},
	}
}

func loadFixture(t testing.TB, dir string) fixture {
	t.Helper()
	read := func(name string, into any) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && name != "manifest.json" {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if into != nil {
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatalf("%s/%s: %v", dir, name, err)
			}
		}
		return data
	}
	var input struct {
		MediaType, Format string
		Exclude           string            // a suffix
		Parents           map[string]string // reference to name of a fixture of the same format
	}
	read("input.json", &input)
	var members map[digest.Digest][]member
	read("members.json", &members)
	f := fixture{dir: dir, members: map[digest.Digest][]model.Member{}}
	f.in = Input{MediaType: input.MediaType, Format: input.Format, Manifest: read("manifest.json", nil), Config: read("config.json", nil)}
	if input.Exclude != "" {
		f.keep = func(p string) bool { return !strings.HasSuffix(p, input.Exclude) }
	}
	f.parents = map[string]string{}
	for ref, name := range input.Parents {
		f.parents[ref] = filepath.Join(filepath.Dir(dir), name)
	}
	for d, list := range members {
		f.members[d] = []model.Member{}
		for _, m := range list {
			f.members[d] = append(f.members[d], m.model(t))
		}
	}
	return f
}

// lookup fails the test for an archive that the plan opens and the fixture does not describe.
func (f fixture) lookup(t testing.TB) Members {
	return func(d digest.Digest) []model.Member {
		list, ok := f.members[d]
		if !ok {
			t.Errorf("%s: members of %s are not in members.json", f.dir, d)
		}
		return list
	}
}

func short(d digest.Digest) string { return d.String()[:min(len(d), 19)] }

// describe renders what the fixture gives.
func (f fixture) describe(t testing.TB) (string, error) {
	p, err := Parse(f.in)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintln(&b, "format", p.Format)
	for range MaxParents {
		if len(p.Parents) == 0 {
			break
		}
		ref := p.Parents[0]
		fmt.Fprintln(&b, "parent", ref)
		other := loadFixture(t, f.parents[ref])
		maps.Copy(f.members, other.members)
		parent, err := Parse(other.in)
		if err != nil {
			return "", err
		}
		if p, err = p.Inherit(parent, ref); err != nil {
			return "", err
		}
	}
	for _, n := range p.Notes {
		fmt.Fprintln(&b, "note", n)
	}
	for _, l := range p.Needed(f.keep) {
		how := "file"
		switch {
		case l.Compressed:
			how = "compressed"
		case l.Archive:
			how = "archive"
		}
		fmt.Fprintln(&b, strings.Join(strings.Fields(fmt.Sprint("fetch ", how, " ", short(l.Blob.Digest), " ", l.Path, " ", l.Origin)), " "))
	}
	for _, i := range p.Inline {
		fmt.Fprintf(&b, "inline %s\n\t%s\n", i.Path, strings.ReplaceAll(strings.TrimRight(string(i.Data), "\n"), "\n", "\n\t"))
	}
	tree, err := p.Tree(f.lookup(t), f.keep)
	if err != nil {
		return "", err
	}
	b.WriteString(render(tree))
	return b.String(), nil
}

func render(tree model.Tree) string {
	var b strings.Builder
	for _, e := range tree {
		switch {
		case e.Mode.IsDir():
			fmt.Fprintf(&b, "%s %s/\n", e.Mode, e.Path)
		case e.Mode&fs.ModeSymlink != 0:
			fmt.Fprintf(&b, "%s %s -> %s\n", e.Mode, e.Path, e.Link)
		default:
			fmt.Fprintf(&b, "%s %s %s %d\n", e.Mode, e.Path, short(e.Blob.Digest), e.Blob.Size)
		}
	}
	return b.String()
}

// kinds are what an error of this package can wrap.
var kinds = map[string]error{"invalid": model.ErrInvalid, "unsupported": model.ErrUnsupported, "too large": model.ErrTooLarge, "not found": model.ErrNotFound}

func kindOf(err error) string {
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			return name
		}
	}
	return "none"
}

func fixtureDirs(t testing.TB, format string) []string {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join("testdata", format, "*", "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, m := range manifests {
		dirs = append(dirs, filepath.Dir(m))
	}
	return dirs
}

func TestGolden(t *testing.T) {
	dirs := fixtureDirs(t, "*")
	if len(dirs) == 0 {
		t.Fatal("testdata has no fixtures")
	}
	for _, dir := range dirs {
		t.Run(strings.TrimPrefix(dir, "testdata/"), func(t *testing.T) {
			f := loadFixture(t, dir)
			got, err := f.describe(t)
			if hostile := strings.HasPrefix(filepath.Base(dir), "hostile-"); hostile != (err != nil) {
				t.Errorf("hostile: %t, error: %v", hostile, err)
			}
			if err != nil {
				if kindOf(err) == "none" {
					t.Errorf("error has no kind: %v", err)
				}
				got = fmt.Sprintf("error %s\n\t%v\n", kindOf(err), err)
			}
			golden := filepath.Join(dir, "golden.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// TestFixturesOfEveryFormat keeps a format from being added without examples and a hostile variant.
func TestFixturesOfEveryFormat(t *testing.T) {
	for _, k := range Names() {
		var good, hostile int
		for _, dir := range fixtureDirs(t, k.Name) {
			if strings.HasPrefix(filepath.Base(dir), "hostile-") {
				hostile++
			} else {
				good++
			}
		}
		if good == 0 || hostile == 0 {
			t.Errorf("testdata/%s has %d good and %d hostile fixtures; both are needed", k.Name, good, hostile)
		}
		if k.Reads == "" {
			t.Errorf("format %s does not say what it reads", k.Name)
		}
	}
}
