package inspect

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// maxSafetensorsHeader is the limit of the reference implementation.
	maxSafetensorsHeader = 100_000_000
	// maxTensors is a hundred times the largest mixture of experts.
	maxTensors = 4 << 20
	// maxDimensions is far above any tensor seen.
	maxDimensions = 64
)

// safetensorsBits is the size of a value of each type.
var safetensorsBits = map[string]int64{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}

// ReadSafetensors reads the header of a safetensors file of size bytes: eight bytes of length and a JSON object. It
// fails with model.ErrInvalid, model.ErrCorrupt where the file ends before its tensors do, and model.ErrTooLarge.
func ReadSafetensors(r io.ReaderAt, size int64) (Weights, error) {
	bad := func(why string, kind error) (Weights, error) {
		return Weights{}, fmt.Errorf("safetensors header: %s: %w", why, kind)
	}
	var prefix [8]byte
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return bad(fmt.Sprintf("the file ends within its first 8 bytes (%v)", err), model.ErrInvalid)
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	switch {
	case length < 2 || length > 1<<62:
		return bad(fmt.Sprintf("a length of %d bytes", length), model.ErrInvalid)
	case int64(length) > size-8:
		return bad(fmt.Sprintf("it is %d bytes long and the file has %d", length, size), model.ErrCorrupt)
	case length > maxSafetensorsHeader:
		return bad(fmt.Sprintf("it is %d bytes long, at most %d are read", length, maxSafetensorsHeader), model.ErrTooLarge)
	}
	header, err := io.ReadAll(io.NewSectionReader(r, 8, int64(length)))
	if err != nil {
		return Weights{}, fmt.Errorf("safetensors header: %w", err)
	}
	if int64(len(header)) < int64(length) {
		return bad("the file ends within it", model.ErrCorrupt)
	}
	w := Weights{Format: FormatSafetensors, HeaderSize: 8 + int64(length)}
	if w.Tensors, w.Metadata, err = parseSafetensors(header, w.HeaderSize); err != nil {
		return Weights{}, err
	}
	for _, t := range w.Tensors {
		if t.Offset+t.Size > size {
			return bad(fmt.Sprintf("tensor %.100q ends at byte %d and the file has %d: it was not copied whole", t.Name, t.Offset+t.Size, size), model.ErrCorrupt)
		}
	}
	return w, nil
}

// parseSafetensors reads the JSON part. start is where the data begin.
func parseSafetensors(header []byte, start int64) ([]Tensor, map[string]any, error) {
	bad := func(format string, args ...any) ([]Tensor, map[string]any, error) {
		return nil, nil, fmt.Errorf("safetensors header: %s: %w", fmt.Sprintf(format, args...), model.ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(header))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return bad("it is not a JSON object")
	}
	var (
		tensors  []Tensor
		metadata map[string]any
	)
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return bad("not valid JSON")
		}
		if name == "__metadata__" {
			if err := d.Decode(&metadata); err != nil {
				return bad("__metadata__ is not an object")
			}
			continue
		}
		var entry struct {
			Type    string  `json:"dtype"`
			Shape   []int64 `json:"shape"`
			Offsets []int64 `json:"data_offsets"`
		}
		if err := d.Decode(&entry); err != nil || len(entry.Offsets) != 2 || len(entry.Shape) > maxDimensions {
			return bad("tensor %.100q is not described by dtype, shape and data_offsets", name)
		}
		begin, end := entry.Offsets[0], entry.Offsets[1]
		elements, ok := product(entry.Shape)
		if !ok || begin < 0 || end < begin || end > 1<<61 {
			return bad("tensor %.100q has the shape %v and the bytes %d to %d", name, entry.Shape, begin, end)
		}
		if bits, known := safetensorsBits[strings.ToUpper(entry.Type)]; known && (elements > (1<<61)/bits || (elements*bits+7)/8 != end-begin) {
			return bad("tensor %.100q of type %s and shape %v has %d bytes", name, entry.Type, entry.Shape, end-begin)
		}
		if entry.Shape == nil {
			entry.Shape = []int64{}
		}
		if tensors = append(tensors, Tensor{Name: name, Type: entry.Type, Shape: entry.Shape, Offset: start + begin, Size: end - begin}); len(tensors) > maxTensors {
			return nil, nil, fmt.Errorf("safetensors header: more than %d tensors: %w", maxTensors, model.ErrTooLarge)
		}
	}
	if token, err := d.Token(); err != nil || token != json.Delim('}') {
		return bad("not valid JSON")
	}
	slices.SortStableFunc(tensors, func(a, b Tensor) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return tensors, metadata, nil
}
