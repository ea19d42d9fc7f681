package inspect

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/model-csi/model-csi/pkg/model"
)

// Limits of a GGUF header. Vocabularies take up to some 20 MB of one.
const (
	maxGGUFHeader  = 1 << 30
	maxGGUFPairs   = 1 << 16
	maxGGUFString  = 4 << 20
	maxGGUFName    = 4096
	maxGGUFKept    = 64 // elements of a list that Metadata keeps
	maxGGUFNesting = 3
	defaultAlign   = 32
)

// ggufTypes describes the tensor types by their number: so many values share a block of so many bytes.
var ggufTypes = map[uint32]struct {
	name         string
	values, size int64
}{
	0: {"F32", 1, 4}, 1: {"F16", 1, 2}, 2: {"Q4_0", 32, 18}, 3: {"Q4_1", 32, 20}, 6: {"Q5_0", 32, 22}, 7: {"Q5_1", 32, 24},
	8: {"Q8_0", 32, 34}, 9: {"Q8_1", 32, 36}, 10: {"Q2_K", 256, 84}, 11: {"Q3_K", 256, 110}, 12: {"Q4_K", 256, 144},
	13: {"Q5_K", 256, 176}, 14: {"Q6_K", 256, 210}, 15: {"Q8_K", 256, 292}, 16: {"IQ2_XXS", 256, 66}, 17: {"IQ2_XS", 256, 74},
	18: {"IQ3_XXS", 256, 98}, 19: {"IQ1_S", 256, 50}, 20: {"IQ4_NL", 32, 18}, 21: {"IQ3_S", 256, 110}, 22: {"IQ2_S", 256, 82},
	23: {"IQ4_XS", 256, 136}, 24: {"I8", 1, 1}, 25: {"I16", 1, 2}, 26: {"I32", 1, 4}, 27: {"I64", 1, 8}, 28: {"F64", 1, 8},
	29: {"IQ1_M", 256, 56}, 30: {"BF16", 1, 2}, 34: {"TQ1_0", 256, 54}, 35: {"TQ2_0", 256, 66}, 39: {"MXFP4", 32, 17},
}

// The types of GGUF metadata values.
const (
	ggufUint8 = iota
	ggufInt8
	ggufUint16
	ggufInt16
	ggufUint32
	ggufInt32
	ggufFloat32
	ggufBool
	ggufString
	ggufArray
	ggufUint64
	ggufInt64
	ggufFloat64
)

// ggufReader reads the header in order and remembers where it is and what failed first.
type ggufReader struct {
	r     *bufio.Reader
	order binary.ByteOrder
	// narrow is set in version 1, whose counts have 32 bits.
	narrow bool
	at     int64
	err    error
}

// ReadGGUF reads the header of a GGUF file of size bytes, versions 1 to 3 in either byte order. It fails with
// model.ErrInvalid, model.ErrCorrupt where the file ends before its tensors do, model.ErrTooLarge, and
// model.ErrUnsupported for a newer version.
func ReadGGUF(r io.ReaderAt, size int64) (Weights, error) {
	g := &ggufReader{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, min(size, maxGGUFHeader)), 1<<16), order: binary.LittleEndian}
	w, err := g.header()
	switch {
	case g.err == nil:
	case errors.Is(g.err, io.EOF) || errors.Is(g.err, io.ErrUnexpectedEOF):
		if size > maxGGUFHeader {
			return Weights{}, fmt.Errorf("GGUF header: it does not end within %d bytes: %w", maxGGUFHeader, model.ErrTooLarge)
		}
		return Weights{}, fmt.Errorf("GGUF header: the file ends within it, after %d bytes: it was not copied whole: %w", size, model.ErrCorrupt)
	default:
		return Weights{}, fmt.Errorf("GGUF header: %w", g.err)
	}
	if err != nil {
		return Weights{}, fmt.Errorf("GGUF header: %w", err)
	}
	for _, t := range w.Tensors {
		if t.Offset+max(t.Size, 0) > size {
			return Weights{}, fmt.Errorf("GGUF header: tensor %.100q ends at byte %d and the file has %d: it was not copied whole: %w",
				t.Name, t.Offset+max(t.Size, 0), size, model.ErrCorrupt)
		}
	}
	return w, nil
}

func (g *ggufReader) header() (Weights, error) {
	var magic [4]byte
	g.read(magic[:])
	if g.err == nil && string(magic[:]) != "GGUF" {
		return Weights{}, fmt.Errorf("it does not begin with GGUF: %w", model.ErrInvalid)
	}
	version := g.uint32()
	if version != 0 && version&0xffff == 0 { // written by a machine of the other byte order
		g.order, version = binary.BigEndian, version>>24|version>>8&0xff00
	}
	if g.err == nil && (version < 1 || version > 3) {
		return Weights{}, fmt.Errorf("version %d is not one of 1 to 3: %w", version, model.ErrUnsupported)
	}
	g.narrow = version == 1
	tensors, pairs := g.count(), g.count()
	if g.err == nil && (tensors > maxTensors || pairs > maxGGUFPairs) {
		return Weights{}, fmt.Errorf("%d tensors and %d metadata pairs: %w", tensors, pairs, model.ErrTooLarge)
	}
	w := Weights{Format: FormatGGUF, Metadata: map[string]any{}}
	for i := uint64(0); i < pairs && g.err == nil; i++ {
		key := g.string(maxGGUFName)
		value, err := g.value(g.uint32(), 0)
		if err != nil {
			return Weights{}, fmt.Errorf("metadata %.100q: %w", key, err)
		}
		if value != nil {
			w.Metadata[key] = value
		}
	}
	for i := uint64(0); i < tensors && g.err == nil; i++ {
		t, err := g.tensor()
		if err != nil {
			return Weights{}, err
		}
		w.Tensors = append(w.Tensors, t)
	}
	align := int64(defaultAlign)
	if n, ok := Integer(w.Metadata["general.alignment"]); ok && n > 0 && n <= 1<<20 {
		align = n
	}
	w.HeaderSize = (g.at + align - 1) / align * align
	for i := range w.Tensors {
		w.Tensors[i].Offset += w.HeaderSize
	}
	return w, nil
}

func (g *ggufReader) tensor() (Tensor, error) {
	t := Tensor{Name: g.string(maxGGUFName), Shape: []int64{}, Size: -1}
	dimensions := g.uint32()
	if dimensions > maxDimensions {
		return Tensor{}, fmt.Errorf("tensor %.100q has %d dimensions: %w", t.Name, dimensions, model.ErrInvalid)
	}
	for range dimensions {
		t.Shape = append(t.Shape, int64(g.count()))
	}
	kind := g.uint32()
	offset := g.uint64()
	elements, ok := product(t.Shape)
	if g.err == nil && (!ok || offset > 1<<60) {
		return Tensor{}, fmt.Errorf("tensor %.100q has the shape %v at byte %d: %w", t.Name, t.Shape, offset, model.ErrInvalid)
	}
	t.Offset = int64(offset)
	t.Type = fmt.Sprintf("type %d", kind)
	if known, ok := ggufTypes[kind]; ok {
		t.Type = known.name
		if elements/known.values > (1<<60)/known.size {
			return Tensor{}, fmt.Errorf("tensor %.100q has the shape %v: %w", t.Name, t.Shape, model.ErrInvalid)
		}
		t.Size = (elements + known.values - 1) / known.values * known.size
	}
	return t, nil
}

// value reads one value. Lists that are too long to keep are read over, and nil.
func (g *ggufReader) value(kind uint32, depth int) (any, error) {
	switch kind {
	case ggufUint8:
		return int64(g.byte()), nil
	case ggufInt8:
		return int64(int8(g.byte())), nil
	case ggufUint16:
		return int64(g.uint16()), nil
	case ggufInt16:
		return int64(int16(g.uint16())), nil
	case ggufUint32:
		return int64(g.uint32()), nil
	case ggufInt32:
		return int64(int32(g.uint32())), nil
	case ggufFloat32:
		return finite(float64(math.Float32frombits(g.uint32()))), nil
	case ggufBool:
		return g.byte() != 0, nil
	case ggufString:
		return g.string(maxGGUFString), nil
	case ggufUint64:
		return int64(g.uint64()), nil
	case ggufInt64:
		return int64(g.uint64()), nil
	case ggufFloat64:
		return finite(math.Float64frombits(g.uint64())), nil
	case ggufArray:
		return g.array(depth)
	}
	if g.err != nil {
		return nil, nil //nolint:nilerr // the first failure is kept in g and reported, not the zero that was read after it
	}
	return nil, fmt.Errorf("value type %d is not known: %w", kind, model.ErrInvalid)
}

// finite leaves out what JSON cannot say.
func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return f
}

// ggufSizes are the bytes of a value of each type that has a fixed size.
var ggufSizes = map[uint32]uint64{
	ggufUint8: 1, ggufInt8: 1, ggufUint16: 2, ggufInt16: 2, ggufUint32: 4, ggufInt32: 4, ggufFloat32: 4, ggufBool: 1,
	ggufUint64: 8, ggufInt64: 8, ggufFloat64: 8,
}

func (g *ggufReader) array(depth int) (any, error) {
	kind, length := g.uint32(), g.count()
	if depth >= maxGGUFNesting {
		return nil, fmt.Errorf("lists are nested deeper than %d: %w", maxGGUFNesting, model.ErrInvalid)
	}
	if length > maxGGUFKept {
		if size, fixed := ggufSizes[kind]; fixed {
			if length > maxGGUFHeader {
				return nil, fmt.Errorf("a list of %d values: %w", length, model.ErrTooLarge)
			}
			g.skip(int64(length * size))
			return nil, nil
		}
	}
	var kept []any
	for i := uint64(0); i < length && g.err == nil; i++ {
		v, err := g.value(kind, depth+1)
		if err != nil {
			return nil, err
		}
		if length <= maxGGUFKept {
			kept = append(kept, v)
		}
	}
	if length > maxGGUFKept {
		return nil, nil
	}
	return kept, nil
}

func (g *ggufReader) read(p []byte) {
	if g.err != nil {
		clear(p)
		return
	}
	n, err := io.ReadFull(g.r, p)
	g.at += int64(n)
	if g.err = err; err != nil {
		clear(p)
	}
}

func (g *ggufReader) skip(n int64) {
	if g.err != nil {
		return
	}
	skipped, err := io.CopyN(io.Discard, g.r, n)
	g.at += skipped
	g.err = err
}

func (g *ggufReader) byte() byte {
	var p [1]byte
	g.read(p[:])
	return p[0]
}

func (g *ggufReader) uint16() uint16 {
	var p [2]byte
	g.read(p[:])
	return g.order.Uint16(p[:])
}

func (g *ggufReader) uint32() uint32 {
	var p [4]byte
	g.read(p[:])
	return g.order.Uint32(p[:])
}

func (g *ggufReader) uint64() uint64 {
	var p [8]byte
	g.read(p[:])
	return g.order.Uint64(p[:])
}

// count reads a length.
func (g *ggufReader) count() uint64 {
	if g.narrow {
		return uint64(g.uint32())
	}
	return g.uint64()
}

func (g *ggufReader) string(limit uint64) string {
	n := g.count()
	if g.err != nil {
		return ""
	}
	if n > limit {
		g.err = fmt.Errorf("a string of %d bytes, at most %d are read: %w", n, limit, model.ErrTooLarge)
		return ""
	}
	p := make([]byte, n)
	g.read(p)
	if g.err != nil {
		return ""
	}
	return string(p)
}

// Integer returns a metadata value that is a whole number.
func Integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case float64:
		return int64(n), n == math.Trunc(n) && math.Abs(n) < 1<<53
	}
	return 0, false
}
