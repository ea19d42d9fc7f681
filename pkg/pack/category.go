package pack

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
)

// largeUnknown is the size from which a file that no rule knows is taken for weights. Code of this size does not exist.
const largeUnknown = 128 << 20

// Override puts the files that a pattern matches into a category, against the rules.
type Override struct {
	// Pattern is a glob with "**". One without a slash matches file names in any directory.
	Pattern  string
	Category Category
}

// ParseOverride reads "pattern=category". It fails with model.ErrInvalid.
func ParseOverride(s string) (Override, error) {
	pattern, name, ok := cutLast(s, "=")
	if !ok || pattern == "" || !doublestar.ValidatePattern(pattern) {
		return Override{}, fmt.Errorf("%q is not a pattern and a category, such as '*.txt=dataset': %w", s, model.ErrInvalid)
	}
	c, err := ParseCategory(name)
	return Override{Pattern: pattern, Category: c}, err
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (o Override) matches(p string) bool {
	if !strings.Contains(o.Pattern, "/") {
		p = path.Base(p)
	}
	ok, err := doublestar.Match(strings.TrimPrefix(o.Pattern, "/"), p)
	return err == nil && ok
}

// rule is a set of file names of one category. Names are compared in lower case.
type rule struct {
	category Category
	// names are whole names, stems are names up to the first dot, extensions begin with a dot.
	names, stems, extensions []string
}

// rules in the order in which they are asked: names before endings, since tokenizer.model is no weight and
// requirements.txt no documentation.
var rules = []rule{
	{category: WeightConfig, names: []string{
		"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "vocab.txt", "merges.txt", "added_tokens.txt",
		"special_tokens.txt", "modelfile", "kitfile", "params", "labels.txt", "classes.txt", "config.pbtxt",
	}},
	{category: Code, names: []string{"requirements.txt", "dockerfile", "containerfile", "makefile", "pyproject.toml", "setup.cfg", "cmakelists.txt"}},
	{
		category:   Doc,
		names:      []string{"citation.cff"},
		stems:      []string{"readme", "license", "licence", "notice", "copying", "changelog", "authors", "use_policy", "model_card", "modelcard", "usage", "acceptable_use"},
		extensions: []string{".md", ".markdown", ".mdx", ".rst", ".txt", ".pdf", ".html", ".htm", ".adoc", ".bib", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"},
	},
	{category: WeightConfig, extensions: []string{
		".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".xml", ".pbtxt", ".prototxt", ".tiktoken", ".jinja", ".jinja2", ".vocab", ".spm", ".bpe",
		".tekken", ".properties",
	}},
	{category: Code, extensions: []string{
		".py", ".ipynb", ".sh", ".bash", ".js", ".ts", ".go", ".rs", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".java", ".kt", ".jl", ".r", ".lua",
		".swift", ".metal", ".cmake", ".so", ".dylib", ".whl", ".jar", ".lock",
	}},
	{category: Dataset, extensions: []string{
		".parquet", ".arrow", ".feather", ".csv", ".tsv", ".jsonl", ".ndjson", ".tfrecord", ".avro", ".orc", ".wav", ".mp3", ".flac", ".mp4",
	}},
	{category: Weight, extensions: []string{
		".model", ".npz", ".npy", ".pkl", ".pickle", ".joblib", ".mar", ".trt", ".rknn", ".param", ".weights", ".caffemodel", ".mnn", ".tar", ".zst", ".index",
		".pdmodel", ".data-00000-of-00001",
	}},
}

// categorise decides what a file is for. untested says that no rule knew the file and its size decided.
func categorise(p string, size int64, overrides []Override) (c Category, untested bool) {
	for _, o := range slices.Backward(overrides) { // the last one wins, as with flags everywhere
		if o.matches(p) {
			return o.Category, false
		}
	}
	name := strings.ToLower(path.Base(p))
	stem, _, _ := strings.Cut(name, ".")
	if inspect.FormatOf(name) != "" {
		return Weight, false
	}
	for _, r := range rules {
		if slices.Contains(r.names, name) || slices.Contains(r.stems, stem) || slices.Contains(r.extensions, path.Ext(name)) {
			return r.category, false
		}
	}
	if size >= largeUnknown {
		return Weight, true
	}
	return Code, true
}
