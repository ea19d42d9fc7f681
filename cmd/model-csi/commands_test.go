package main

import (
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

func testFile(path, content string) model.File {
	return model.File{Path: path, Mode: 0o444, Blob: model.Blob{Digest: digest.FromString(content), Size: int64(len(content))}}
}

func TestExplain(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	first := now.Add(-5 * time.Minute)
	status := admin.Status{
		Node: "node-7",
		Volumes: []store.Lease{
			{VolumeID: "csi-0123456789abcdef", Pod: "team-a/llm-0", Reference: "r.example.com/m:1", Bytes: 2 << 30, Files: 7, Created: first, Target: "/pods/x"},
			{VolumeID: "csi-other", Pod: "team-b/llm-0", Reference: "r.example.com/m:2", Created: first},
		},
		Waiting: []model.Attempt{
			{VolumeID: "csi-pulling", Pod: "team-a/pulling", Reference: "r.example.com/p:1", First: first, Ended: now, Code: "Aborted", Calls: 3},
			{VolumeID: "csi-troubled", Pod: "team-a/troubled", Reference: "r.example.com/t:1", First: first},
			{VolumeID: "csi-new", Pod: "team-a/new", Reference: "r.example.com/n:1", First: first},
			{VolumeID: "csi-denied", Pod: "team-a/denied", Reference: "r.example.com/d:1", First: first, Ended: now, Code: "Unauthenticated", Error: "no credential", Calls: 12},
			{VolumeID: "csi-odd", Pod: "team-a/odd", Reference: "r.example.com/o:1", First: first, Ended: now, Code: "Unknown", Error: "something else", Calls: 1},
		},
		Pulls: []pull.Progress{
			{Reference: "r.example.com/p:1", Done: 50, Total: 100},
			{Reference: "r.example.com/t:1", Done: 1, Total: 100, Trouble: "connection refused"},
		},
	}
	tests := []struct {
		name          string
		states        []string
		detail, shown string
	}{
		{"team-a/llm-0", []string{"mounted"}, "2.0 GiB in 7 files, mounted since 5 minutes ago at /pods/x", "for pod team-a/llm-0"},
		{"llm-0", []string{"mounted", "mounted"}, "2.0 GiB", ""},
		{"csi-0123456789ab", []string{"mounted"}, "2.0 GiB", "volume: csi-0123456789abcdef"},
		{"pulling", []string{"pulling"}, "50% (50 B of 100 B)", ""},
		{"troubled", []string{"pulling"}, "connection refused", "what to do: nothing yet"},
		{"team-a/new", []string{"starting"}, "asked for 5 minutes ago", ""},
		{"team-a/denied", []string{"failing"}, "no credential (Unauthenticated; asked for 12 times, first 5 minutes ago)", "nodePublishSecretRef"},
		{"odd", []string{"failing"}, "something else", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := explain(status, tt.name, now)
			if err != nil {
				t.Fatal(err)
			}
			var states []string
			for _, x := range got {
				states = append(states, x.State)
			}
			if !slices.Equal(states, tt.states) || !strings.Contains(got[0].Detail, tt.detail) || !strings.Contains(got[0].String(), tt.shown) {
				t.Errorf("%v: %+v", states, got)
			}
		})
	}
	for _, unknown := range []string{"team-c/llm-0", "csi-0123", "nothing"} {
		if got, err := explain(status, unknown, now); err == nil || !strings.Contains(err.Error(), "node-7") {
			t.Errorf("%s: %v, %v", unknown, got, err)
		}
	}
}

func TestCompare(t *testing.T) {
	link := model.File{Path: "link", Mode: fs.ModeSymlink | 0o777, Link: "a"}
	moved := link
	moved.Link = "b"
	script := testFile("run.sh", "x")
	executable := script
	executable.Mode = 0o555
	from := model.Tree{testFile("a", "1"), testFile("gone", "2"), link, script}
	to := model.Tree{testFile("a", "changed"), moved, testFile("new", "3"), executable, {Path: "dir", Mode: fs.ModeDir | 0o755}}
	for _, tree := range []*model.Tree{&from, &to} {
		sorted, err := model.NewTree(*tree)
		if err != nil {
			t.Fatal(err)
		}
		*tree = sorted
	}
	paths := func(files []fileOf) (out string) {
		for _, f := range files {
			out += f.Path + " "
		}
		return out
	}
	d := compare(from, to)
	if paths(d.Added) != "new " || paths(d.Removed) != "gone " || paths(d.Changed) != "a link run.sh " {
		t.Errorf("%+v", d)
	}
	if same := compare(to, to); len(same.Added)+len(same.Removed)+len(same.Changed) > 0 {
		t.Errorf("a tree differs from itself: %+v", same)
	}
	back := compare(to, from)
	if paths(back.Added) != "gone " || paths(back.Removed) != "new " {
		t.Errorf("%+v", back)
	}
}

func TestDrawTree(t *testing.T) {
	tree := model.Tree{
		testFile("README.md", "# x"), testFile("a/b/c.bin", "12345"), testFile("a/d.json", "{}"),
		{Path: "link", Mode: fs.ModeSymlink | 0o777, Link: "a/d.json"},
	}
	const want = `r.example.com/m:1
├── README.md  3 B
├── a
│   ├── b
│   │   └── c.bin  5 B
│   └── d.json  2 B
└── link -> a/d.json
3 files, 10 B
`
	if got := drawTree("r.example.com/m:1", tree); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := drawTree("empty", nil); got != "empty\n0 files, 0 B\n" {
		t.Errorf("an empty tree: %q", got)
	}
}

func TestDescribe(t *testing.T) {
	tests := map[string]struct {
		config string
		want   [][2]string
	}{
		"all": {
			`{"descriptor":{"name":"n","family":"qwen2","licenses":["MIT","Apache-2.0"],"authors":["a"]},"config":{"paramSize":"7B","precision":"bf16"}}`,
			[][2]string{{"name", "n"}, {"family", "qwen2"}, {"licenses", "MIT Apache-2.0"}, {"paramSize", "7B"}, {"precision", "bf16"}},
		},
		"empty values":     {`{"descriptor":{"name":"","licenses":[]},"config":{}}`, nil},
		"of other types":   {`{"descriptor":{"name":3,"family":{"x":1}},"config":[]}`, nil},
		"not an object":    {`[1,2]`, nil},
		"something else":   {`{"architecture":"amd64","os":"linux"}`, nil},
		"no config at all": {`null`, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var config any
			if err := json.Unmarshal([]byte(tt.config), &config); err != nil {
				t.Fatal(err)
			}
			if got := describe(config); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	tree := model.Tree{
		testFile("a/b", "x"), {Path: "a", Mode: fs.ModeDir | 0o755},
		{Path: "link", Mode: fs.ModeSymlink | 0o777, Link: "a/chain"}, {Path: "a/chain", Mode: fs.ModeSymlink | 0o777, Link: "b"},
	}
	tree, err := model.NewTree(tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/b", "/a/b", "./a/b", "link"} {
		if f, err := lookup(tree, name); err != nil || f.Path != "a/b" {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	for name, why := range map[string]string{"none": "no file", "a": "directory"} {
		if f, err := lookup(tree, name); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// Under its name as a plugin the program speaks of kubectl, and everything else called model-csi keeps its name.
func TestPluginText(t *testing.T) {
	rename := pluginText(newCommand())
	for text, want := range map[string]string{
		`see "model-csi push --help"`:                         `see "kubectl model push --help"`,
		"model-csi cache ls; model-csi umount /x":             "kubectl model cache ls; kubectl model umount /x",
		"kubectl exec -n model-csi daemonset/model-csi -- sh": "kubectl exec -n model-csi daemonset/model-csi -- sh",
		"/var/lib/model-csi cache":                            "/var/lib/model-csi cache",
		"model-csi makes models volumes":                      "model-csi makes models volumes",
	} {
		if got := rename(text); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for argv0, want := range map[string]bool{"/usr/bin/kubectl-model": true, "kubectl-model.exe": true, "model-csi": false, "/x/kubectl-model/model-csi": false} {
		if isPlugin(argv0) != want {
			t.Errorf("%s: %v", argv0, !want)
		}
	}
}
