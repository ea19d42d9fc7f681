package inspect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// summary is what all weight files of a model say together.
type summary struct {
	// values counts the values of tensors by type; stored is the number of values of packed tensors as they are stored.
	values map[string]int64
	// metadata of a GGUF file, the first one's where there are several.
	metadata map[string]any
	format   string
	// packed is the number of parameters in tensors that pack several into one stored value, by the bits of each.
	packed map[int64]int64
	// template is the chat template inside a GGUF file.
	template string
}

// weights reads the headers of the files that make up the model. Several copies of the same weights often lie side by
// side: in each directory an index decides which files count, else "consolidated" copies do not.
func (d *describer) weights(bits int64) summary {
	s := summary{values: map[string]int64{}, packed: map[int64]int64{}}
	for _, dir := range slices.Sorted(maps.Keys(d.directories)) {
		for _, f := range d.chosen(dir) {
			if w, ok := d.header(f); ok {
				s.add(w, bits)
			}
		}
	}
	return s
}

// chosen lists the files with readable headers in a directory that count.
func (d *describer) chosen(dir string) []File {
	var tensors, ggufs, whole []File
	for _, f := range d.directories[dir] {
		switch strings.ToLower(path.Ext(f.Path)) {
		case ".safetensors":
			if tensors = append(tensors, f); !strings.HasPrefix(path.Base(f.Path), "consolidated") {
				whole = append(whole, f)
			}
		case ".gguf":
			ggufs = append(ggufs, f)
		}
	}
	byPath := func(a, b File) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(ggufs, byPath)
	if len(tensors) == 0 {
		return quantizationOf(ggufs)
	}
	if len(whole) > 0 {
		tensors = whole
	}
	slices.SortFunc(tensors, byPath)
	if named := d.index(dir); len(named) > 0 {
		tensors = slices.DeleteFunc(tensors, func(f File) bool { return !named[f.Path] })
	}
	return tensors
}

// quantizationOf keeps one variant of a directory of GGUF files: the largest file and the shards that belong to it.
func quantizationOf(files []File) []File {
	if len(files) == 0 {
		return nil
	}
	stem := func(f File) string {
		name := strings.TrimSuffix(f.Path, path.Ext(f.Path))
		if i := strings.LastIndex(name, "-of-"); i > 0 {
			if j := strings.LastIndexByte(name[:i], '-'); j > 0 {
				return name[:j]
			}
		}
		return name
	}
	sizes := map[string]int64{}
	best := stem(files[0])
	for _, f := range files {
		sizes[stem(f)] += f.Size
		if sizes[stem(f)] > sizes[best] {
			best = stem(f)
		}
	}
	return slices.DeleteFunc(slices.Clone(files), func(f File) bool { return stem(f) != best })
}

// index reads which files an index of shards names.
func (d *describer) index(dir string) map[string]bool {
	for _, name := range []string{"model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"} {
		name = path.Join(dir, name)
		data := d.read(name)
		if data == nil {
			continue
		}
		var index struct {
			Map map[string]string `json:"weight_map"`
		}
		if err := json.Unmarshal(data, &index); err != nil {
			d.problem(name, fmt.Errorf("not an index of shards: %v: %w", err, model.ErrInvalid))
			return nil
		}
		named := map[string]bool{}
		for _, file := range index.Map {
			at := path.Join(dir, file)
			if named[at] {
				continue
			}
			named[at] = true
			if _, ok := d.files[at]; !ok {
				d.problem(at, fmt.Errorf("%w: %w", errNoShard, model.ErrNotFound))
			}
		}
		return named
	}
	return nil
}

func (s *summary) add(w Weights, bits int64) {
	s.format = w.Format
	if w.Format == FormatGGUF && s.metadata == nil {
		s.metadata = w.Metadata
		s.template, _ = w.Metadata["tokenizer.chat_template"].(string)
	}
	for _, t := range w.Tensors {
		if _, known := safetensorsBits[strings.ToUpper(t.Type)]; t.Size < 0 || w.Format == FormatSafetensors && !known {
			continue // nothing ties its shape to the bytes that are there
		}
		switch per, kind := packing(t, bits); kind {
		case plainTensor:
			s.values[t.Type] += t.Elements()
		case packedTensor:
			s.packed[per] += t.Elements() * storedBits(t) / per
		case helperTensor:
		}
	}
}

type tensorKind int

const (
	plainTensor tensorKind = iota
	// packedTensor has several parameters in one stored value.
	packedTensor
	// helperTensor belongs to a quantization: scales, zero points and the like are no parameters.
	helperTensor
)

var helperSuffixes = []string{
	".qzeros", ".scales", ".g_idx", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".weight_scale",
	".weight_scale_inv", ".weight_scale_2", ".weight_shape", ".weight_zero_point", ".weight_g_idx", ".input_scale", ".output_scale", ".SCB",
	"_scales", ".k_scale", ".v_scale", ".weight_format",
}

// packing tells how the tensor of a quantized model counts, by the names that the usual methods give. bits is the size
// of a parameter as the model's config says it, 0 where it says none.
func packing(t Tensor, bits int64) (per int64, kind tensorKind) {
	if bits == 0 {
		return 0, plainTensor
	}
	for _, suffix := range helperSuffixes {
		if strings.HasSuffix(t.Name, suffix) || strings.Contains(t.Name, ".quant_state.") {
			return 0, helperTensor
		}
	}
	packs := strings.HasSuffix(t.Name, ".qweight") || strings.HasSuffix(t.Name, ".weight_packed") || strings.HasSuffix(t.Name, "_blocks") ||
		t.Type == "U8" && strings.HasSuffix(t.Name, ".weight")
	if packs && bits < storedBits(t) {
		return bits, packedTensor
	}
	return 0, plainTensor
}

// storedBits is the size of one value of a safetensors type.
func storedBits(t Tensor) int64 { return max(safetensorsBits[strings.ToUpper(t.Type)], 1) }

// parameters is the number of all parameters.
func (s summary) parameters() int64 {
	var n int64
	for _, v := range s.values {
		n += v
	}
	for _, v := range s.packed {
		n += v
	}
	return n
}

// precisions are the names of types in the specification's words, and in those of PyTorch for what it has no word for.
var precisions = map[string]string{
	"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "BOOL": "bool",
	"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
	"F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
	"F8_E8M0": "float8_e8m0", "F4": "float4_e2m1", "MXFP4": "float4_e2m1",
}

// precision is the type that at least nine of ten parameters have. Where there is none it lists the types that more than
// one in a hundred has, that of most parameters first, separated by commas.
func (s summary) precision() string {
	total := s.parameters()
	if total == 0 {
		return ""
	}
	by := map[string]int64{}
	for t, n := range s.values {
		name := precisions[t]
		if name == "" && s.format == FormatGGUF {
			name = ggufPrecision(t)
		}
		if name == "" {
			name = strings.ToLower(t)
		}
		by[name] += n
	}
	for bits, n := range s.packed {
		by[fmt.Sprintf("int%d", bits)] += n
	}
	names := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Or(cmp.Compare(by[b], by[a]), strings.Compare(a, b)) })
	if by[names[0]] > total-total/10-1 {
		return names[0]
	}
	return strings.Join(slices.DeleteFunc(names, func(name string) bool { return by[name] <= total/100 }), ",")
}

// ggufPrecision reads the bits in the name of a block type: "Q4_K" is "int4".
func ggufPrecision(t string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(t, "I"), "Q")
	if rest != "" && rest[0] >= '1' && rest[0] <= '8' && strings.Contains(t, "Q") {
		return "int" + rest[:1]
	}
	return ""
}
