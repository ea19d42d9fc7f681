// Package inspect says what a model's own files tell about it, without loading a weight.
//
// The headers of weight files list their tensors: [ReadSafetensors] and [ReadGGUF] parse them into [Weights] from any
// io.ReaderAt, a file or a blob read by ranges. [Describe] puts together what the headers, config.json, the tokenizer's
// settings and the model card of a directory say: its [Facts].
//
// Everything here reads bytes that strangers wrote. Headers are bounded in size, and what is allocated is bounded by
// what was read, never by what a length field claims.
package inspect

import (
	"io"

	"github.com/model-csi/model-csi/pkg/model"
)

// Names of weight formats, as the ModelPack specification's "format" field uses them.
const (
	FormatSafetensors = "safetensors"
	FormatGGUF        = "gguf"
)

// Tensor is one tensor of a weight file.
type Tensor struct {
	Name string `json:"name"`
	// Type as the file's format calls it: "BF16", "F8_E4M3", "Q4_K".
	Type string `json:"type"`
	// Shape has the dimensions in the order of the file's format: outermost first in safetensors, innermost first in
	// GGUF. It is empty for a scalar.
	Shape []int64 `json:"shape"`
	// Offset of the data in the file, and its Size, in bytes. Size is -1 for a type that is not known.
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// Elements is the number of values in the tensor.
func (t Tensor) Elements() int64 {
	n, _ := product(t.Shape)
	return n
}

// Weights is the header of a weight file.
type Weights struct {
	// Format is FormatSafetensors or FormatGGUF.
	Format string `json:"format"`
	// HeaderSize is where the tensors' data begin, in bytes.
	HeaderSize int64 `json:"headerSize"`
	// Metadata holds strings, numbers, booleans and short lists; long lists, such as a vocabulary, are left out.
	Metadata map[string]any `json:"metadata,omitempty"`
	// Tensors in the order of their data.
	Tensors []Tensor `json:"tensors"`
}

// ReadAtCloser is an open file, or a blob that is read by ranges.
type ReadAtCloser interface {
	io.ReaderAt
	io.Closer
}

// product multiplies dimensions; ok is false where that overflows or one is negative.
func product(shape []int64) (n int64, ok bool) {
	n = 1
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, false
		case d == 0:
			return 0, true
		case n > (1<<62)/d:
			return 0, false
		}
		n *= d
	}
	return n, true
}

// Kinds of failure of the parsers: model.ErrInvalid for what is not of the format, model.ErrCorrupt for a file that is
// shorter than its header says, model.ErrTooLarge beyond a limit, model.ErrUnsupported for a version of the future.
var _ = []error{model.ErrInvalid, model.ErrCorrupt, model.ErrTooLarge, model.ErrUnsupported}
