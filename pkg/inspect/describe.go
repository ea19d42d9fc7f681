package inspect

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// File is one file of a model.
type File struct {
	// Path is relative to the model's directory, slash separated.
	Path string
	// Size in bytes.
	Size int64
	// Open opens the file for reading; the caller closes it.
	Open func() (ReadAtCloser, error)
}

// Facts are what a model's files say about it. What no file says is empty.
type Facts struct {
	Name   string `json:"name,omitempty"`
	Family string `json:"family,omitempty"`
	// Architecture in the words of the ModelPack specification: "transformer", "cnn", "rnn" and so on.
	Architecture string `json:"architecture,omitempty"`
	Format       string `json:"format,omitempty"`
	// Parameters is their number; 0 when it is not known.
	Parameters int64 `json:"parameters,omitempty"`
	// Precision is the type of nearly all values, such as "bfloat16" or "int4", or a list: "int4,int6".
	Precision    string   `json:"precision,omitempty"`
	Quantization string   `json:"quantization,omitempty"`
	InputTypes   []string `json:"inputTypes,omitempty"`
	OutputTypes  []string `json:"outputTypes,omitempty"`
	Reasoning    bool     `json:"reasoning,omitempty"`
	ToolUsage    bool     `json:"toolUsage,omitempty"`
	// Languages are codes of two letters (ISO 639-1).
	Languages []string `json:"languages,omitempty"`
	// Licenses are SPDX license expressions.
	Licenses []string `json:"licenses,omitempty"`
	// ContextLength in tokens.
	ContextLength int64 `json:"contextLength,omitempty"`
}

// Problem is something in a file that keeps the model from being used as it is, or from being described.
type Problem struct {
	Path string
	// Err wraps a kind of package model where the file itself is at fault.
	Err error
}

func (p Problem) Error() string { return p.Path + ": " + p.Err.Error() }

// Unwrap returns Err.
func (p Problem) Unwrap() error { return p.Err }

// maxText bounds the text files that are read as a whole. Tokenizer settings take some hundred kilobytes.
const maxText = 16 << 20

// Describe reads what the files say. It opens weight files only for their headers. A file that cannot be read or
// understood becomes a Problem and takes nothing away from what the others say.
func Describe(files []File) (Facts, []Problem) {
	d := describer{files: map[string]File{}, directories: map[string][]File{}}
	for _, f := range files {
		d.files[f.Path] = f
		d.directories[path.Dir(f.Path)] = append(d.directories[path.Dir(f.Path)], f)
	}
	config := d.config()
	weights := d.weights(config.packedBits())
	card := d.card()
	facts := Facts{Format: majorFormat(files)}
	facts.addWeights(weights, config)
	facts.addConfig(config)
	facts.addCard(card)
	facts.addTokenizer(d.text("tokenizer_config.json") + d.text("chat_template.jinja") + weights.template)
	if _, ok := d.files["modules.json"]; ok && len(facts.OutputTypes) <= 1 {
		if _, pooling := d.files["1_Pooling/config.json"]; pooling { // how sentence-transformers lays out its models
			facts.InputTypes, facts.OutputTypes = []string{"text"}, []string{"embedding"}
		}
	}
	slices.SortFunc(d.problems, func(a, b Problem) int { return strings.Compare(a.Path, b.Path) })
	return facts, d.problems
}

type describer struct {
	// files by path, and the same by directory.
	files       map[string]File
	directories map[string][]File
	problems    []Problem
}

func (d *describer) problem(name string, err error) {
	d.problems = append(d.problems, Problem{Path: name, Err: err})
}

// read returns the content of a text file; nil when there is none.
func (d *describer) read(name string) []byte {
	f, ok := d.files[name]
	if !ok {
		return nil
	}
	if f.Size > maxText {
		d.problem(name, fmt.Errorf("%d bytes, at most %d are read: %w", f.Size, maxText, model.ErrTooLarge))
		return nil
	}
	r, err := f.Open()
	if err != nil {
		d.problem(name, err)
		return nil
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.NewSectionReader(r, 0, f.Size))
	if err != nil {
		d.problem(name, err)
		return nil
	}
	return data
}

func (d *describer) text(name string) string { return string(d.read(name)) }

// header reads the header of a weight file.
func (d *describer) header(f File) (Weights, bool) {
	r, err := f.Open()
	if err != nil {
		d.problem(f.Path, err)
		return Weights{}, false
	}
	defer func() { _ = r.Close() }()
	read := ReadSafetensors
	if strings.EqualFold(path.Ext(f.Path), ".gguf") {
		read = ReadGGUF
	}
	w, err := read(r, f.Size)
	if err != nil {
		d.problem(f.Path, err)
		return Weights{}, false
	}
	return w, true
}

// formats of weight files by their ending.
var formats = map[string]string{
	".safetensors": FormatSafetensors, ".gguf": FormatGGUF, ".ggml": "ggml",
	".bin": "pt", ".pt": "pt", ".pth": "pt", ".ckpt": "pt",
	".onnx": "onnx", ".onnx_data": "onnx", ".pb": "tensorflow", ".h5": "tensorflow", ".keras": "keras", ".tflite": "tflite",
	".msgpack": "flax", ".mlmodel": "coreml", ".mlpackage": "coreml", ".engine": "tensorrt", ".plan": "tensorrt", ".nemo": "nemo",
	".pdparams": "paddle", ".pdiparams": "paddle", ".llamafile": "llamafile",
}

// majorFormat is the format that most bytes have.
func majorFormat(files []File) string {
	bytes := map[string]int64{}
	best := ""
	for _, f := range files {
		format, ok := formats[strings.ToLower(path.Ext(f.Path))]
		if !ok {
			continue
		}
		bytes[format] += f.Size
		if best == "" || bytes[format] > bytes[best] || bytes[format] == bytes[best] && format < best {
			best = format
		}
	}
	return best
}

// errNoShard is why a model with an index of shards is not whole.
var errNoShard = errors.New("the index of the weights names it, and it is not there")
