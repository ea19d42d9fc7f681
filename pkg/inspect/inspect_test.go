package inspect_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
)

// tensors is the JSON header of a safetensors file; data of size bytes follow it.
func safetensors(header string, size int) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), make([]byte, size)...)
}

// tensorFile makes a file of tensors one after the other.
func tensorFile(tensors ...inspect.Tensor) []byte {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	at := int64(0)
	for _, t := range tensors {
		header[t.Name] = map[string]any{"dtype": t.Type, "shape": t.Shape, "data_offsets": []int64{at, at + t.Size}}
		at += t.Size
	}
	text, _ := json.Marshal(header)
	return safetensors(string(text), int(at))
}

func TestSafetensors(t *testing.T) {
	file := tensorFile(inspect.Tensor{Name: "b", Type: "BF16", Shape: []int64{3, 4}, Size: 24}, inspect.Tensor{Name: "a", Type: "F32", Shape: []int64{}, Size: 4})
	w, err := inspect.ReadSafetensors(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Tensors) != 2 || w.Tensors[0].Name != "b" || w.Tensors[0].Elements() != 12 || w.Tensors[1].Elements() != 1 || w.Tensors[1].Shape == nil {
		t.Errorf("%+v", w.Tensors)
	}
	if w.HeaderSize != int64(len(file))-28 || w.Tensors[0].Offset != w.HeaderSize || w.Tensors[1].Offset != w.HeaderSize+24 || w.Metadata["format"] != "pt" {
		t.Errorf("%+v", w)
	}
	tests := map[string]struct {
		file []byte
		kind error
	}{
		"empty":            {nil, model.ErrInvalid},
		"seven bytes":      {make([]byte, 7), model.ErrInvalid},
		"no header":        {make([]byte, 8), model.ErrInvalid},
		"header cut":       {file[:20], model.ErrCorrupt},
		"data cut":         {file[:len(file)-1], model.ErrCorrupt},
		"negative length":  {bytes.Repeat([]byte{0xff}, 16), model.ErrInvalid},
		"huge header":      {binary.LittleEndian.AppendUint64(nil, 200_000_000), model.ErrCorrupt},
		"a list":           {safetensors("[]", 0), model.ErrInvalid},
		"not JSON":         {safetensors("{x}", 0), model.ErrInvalid},
		"cut JSON":         {safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`, 4), model.ErrInvalid},
		"no offsets":       {safetensors(`{"a":{"dtype":"F32","shape":[1]}}`, 4), model.ErrInvalid},
		"negative offset":  {safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 4), model.ErrInvalid},
		"negative shape":   {safetensors(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), model.ErrInvalid},
		"overflow":         {safetensors(`{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}`, 4), model.ErrInvalid},
		"size and shape":   {safetensors(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), model.ErrInvalid},
		"offset near 2^63": {safetensors(`{"a":{"dtype":"X","shape":[2],"data_offsets":[9223372036854775800,9223372036854775807]}}`, 4), model.ErrInvalid},
	}
	for name, tt := range tests {
		if _, err := inspect.ReadSafetensors(bytes.NewReader(tt.file), int64(len(tt.file))); !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A file of the right size whose header is larger than anybody may make it.
	if _, err := inspect.ReadSafetensors(bytes.NewReader(binary.LittleEndian.AppendUint64(nil, 200_000_000)), 300_000_000); !errors.Is(err, model.ErrTooLarge) {
		t.Errorf("huge header: %v", err)
	}
}

// gguf writes headers.
type gguf struct {
	bytes.Buffer
	order binary.ByteOrder
}

func (g *gguf) put(values ...any) *gguf {
	for _, v := range values {
		if s, ok := v.(string); ok {
			_ = binary.Write(g, g.order, uint64(len(s)))
			g.WriteString(s)
			continue
		}
		_ = binary.Write(g, g.order, v)
	}
	return g
}

// ggufFile has one tensor of 2 blocks of Q4_K and one of F32, with their data.
func ggufFile(order binary.ByteOrder) []byte {
	g := &gguf{order: order}
	g.WriteString("GGUF")
	g.put(uint32(3), uint64(2), uint64(7))
	g.put("general.architecture", uint32(8), "llama")
	g.put("general.name", uint32(8), "Tiny")
	g.put("general.file_type", uint32(4), uint32(15))
	g.put("llama.context_length", uint32(4), uint32(4096))
	g.put("general.languages", uint32(9), uint32(8), uint64(2), "en", "multilingual")
	g.put("tokenizer.ggml.tokens", uint32(9), uint32(8), uint64(100))
	for range 100 {
		g.put("token")
	}
	g.put("tokenizer.chat_template", uint32(8), "{% if tools %}<think>")
	g.put("blk.0.weight", uint32(2), uint64(256), uint64(2), uint32(12), uint64(0))
	g.put("norm", uint32(1), uint64(8), uint32(0), uint64(288))
	for g.Len()%32 != 0 {
		g.WriteByte(0)
	}
	g.Write(make([]byte, 288+32))
	return g.Bytes()
}

func TestGGUF(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		file := ggufFile(order)
		w, err := inspect.ReadGGUF(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		if len(w.Tensors) != 2 || w.Tensors[0].Type != "Q4_K" || w.Tensors[0].Size != 288 || w.Tensors[0].Offset != w.HeaderSize || w.Tensors[1].Offset != w.HeaderSize+288 {
			t.Errorf("%+v", w.Tensors)
		}
		if _, long := w.Metadata["tokenizer.ggml.tokens"]; long || w.Metadata["general.name"] != "Tiny" || int64(len(file)) != w.HeaderSize+320 {
			t.Errorf("%v", w.Metadata)
		}
		for cut := range file {
			if _, err := inspect.ReadGGUF(bytes.NewReader(file[:cut]), int64(cut)); !errors.Is(err, model.ErrCorrupt) {
				t.Fatalf("cut after %d of %d bytes: %v", cut, len(file), err)
			}
		}
	}
	head := func(values ...any) []byte {
		g := &gguf{order: binary.LittleEndian}
		g.WriteString("GGUF")
		return g.put(values...).Bytes()
	}
	tests := map[string]struct {
		file []byte
		kind error
	}{
		"magic":            {[]byte("GGML0000"), model.ErrInvalid},
		"version 0":        {head(uint32(0), uint64(0), uint64(0)), model.ErrUnsupported},
		"version 9":        {head(uint32(9), uint64(0), uint64(0)), model.ErrUnsupported},
		"many tensors":     {head(uint32(3), uint64(1<<40), uint64(0)), model.ErrTooLarge},
		"many pairs":       {head(uint32(3), uint64(0), uint64(1<<40)), model.ErrTooLarge},
		"long key":         {head(uint32(3), uint64(0), uint64(1), uint64(1<<40)), model.ErrTooLarge},
		"unknown type":     {head(uint32(3), uint64(0), uint64(1), "k", uint32(99)), model.ErrInvalid},
		"nested lists":     {head(uint32(3), uint64(0), uint64(1), "k", uint32(9), uint32(9), uint64(1), uint32(9), uint64(1), uint32(9), uint64(1), uint32(9), uint64(1), uint32(9), uint64(1)), model.ErrInvalid},
		"long list":        {head(uint32(3), uint64(0), uint64(1), "k", uint32(9), uint32(4), uint64(1<<60)), model.ErrTooLarge},
		"dimensions":       {head(uint32(3), uint64(1), uint64(0), "t", uint32(1000)), model.ErrInvalid},
		"overflow":         {head(uint32(3), uint64(1), uint64(0), "t", uint32(2), uint64(1<<62), uint64(8), uint32(0), uint64(0)), model.ErrInvalid},
		"offset":           {head(uint32(3), uint64(1), uint64(0), "t", uint32(1), uint64(1), uint32(0), uint64(1<<63)), model.ErrInvalid},
		"data are missing": {head(uint32(3), uint64(1), uint64(0), "t", uint32(1), uint64(1<<20), uint32(0), uint64(0)), model.ErrCorrupt},
	}
	for name, tt := range tests {
		if _, err := inspect.ReadGGUF(bytes.NewReader(tt.file), int64(len(tt.file))); !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(tensorFile(inspect.Tensor{Name: "a", Type: "BF16", Shape: []int64{3, 4}, Size: 24}))
	f.Add(safetensors(`{"__metadata__":{},"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, 1))
	f.Fuzz(func(t *testing.T, file []byte) {
		w, err := inspect.ReadSafetensors(bytes.NewReader(file), int64(len(file)))
		checkWeights(t, w, err, int64(len(file)))
	})
}

func FuzzGGUF(f *testing.F) {
	f.Add(ggufFile(binary.LittleEndian))
	f.Add(ggufFile(binary.BigEndian))
	f.Fuzz(func(t *testing.T, file []byte) {
		w, err := inspect.ReadGGUF(bytes.NewReader(file), int64(len(file)))
		checkWeights(t, w, err, int64(len(file)))
	})
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(`{"model_type":"qwen2","quantization_config":{"bits":4}}`), []byte("---\nlicense: [mit]\n---\n"), []byte(`{"weight_map":{"a":"../b"}}`))
	f.Fuzz(func(t *testing.T, config, card, index []byte) {
		facts, _ := inspect.Describe(directory(map[string][]byte{
			"config.json": config, "README.md": card, "model.safetensors.index.json": index,
			"a.safetensors": tensorFile(weight("l.qweight", "I32", 32, 10)), "tokenizer_config.json": config,
		}))
		if facts.Parameters < 0 || facts.ContextLength < 0 {
			t.Errorf("%+v", facts)
		}
		if _, err := json.Marshal(facts); err != nil {
			t.Error(err)
		}
	})
}

// checkWeights holds what every header that was accepted promises.
func checkWeights(t *testing.T, w inspect.Weights, err error, size int64) {
	if err != nil {
		return
	}
	for _, tensor := range w.Tensors {
		if tensor.Offset < 0 || tensor.Offset+max(tensor.Size, 0) > size || tensor.Elements() < 0 {
			t.Errorf("%+v in a file of %d bytes", tensor, size)
		}
	}
	if _, err := json.Marshal(w); err != nil {
		t.Error(err)
	}
}

// directory makes files to describe.
func directory(files map[string][]byte) []inspect.File {
	var out []inspect.File
	for name, content := range files {
		out = append(out, inspect.File{Path: name, Size: int64(len(content)), Open: func() (inspect.ReadAtCloser, error) {
			return struct {
				io.ReaderAt
				io.Closer
			}{bytes.NewReader(content), io.NopCloser(nil)}, nil
		}})
	}
	return out
}

func weight(name, kind string, bits int64, shape ...int64) inspect.Tensor {
	t := inspect.Tensor{Name: name, Type: kind, Shape: shape}
	t.Size = t.Elements() * bits / 8
	return t
}

func TestDescribe(t *testing.T) {
	bf16 := tensorFile(weight("w", "BF16", 16, 700, 1000))
	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"transformers": {map[string]string{
			"model.safetensors":     string(bf16),
			"config.json":           `{"model_type":"llama","architectures":["LlamaForCausalLM"],"max_position_embeddings":8192}`,
			"tokenizer_config.json": `{"chat_template":"{% if tools %}"}`,
			"README.md":             "---\nlicense: mit\nlanguage:\n- en\n- multilingual\nmodel_name: Tiny\n---\n",
		}, `{"name":"Tiny","family":"llama","architecture":"transformer","format":"safetensors","parameters":700000,"precision":"bfloat16","inputTypes":["text"],"outputTypes":["text"],"toolUsage":true,"languages":["en"],"licenses":["MIT"],"contextLength":8192}`},
		"the same weights twice": {map[string]string{"model.safetensors": string(bf16), "consolidated.safetensors": string(bf16), "original/consolidated.pth": "x"},
			`{"format":"safetensors","parameters":700000,"precision":"bfloat16"}`},
		"an index says what counts": {map[string]string{
			"a.safetensors": string(bf16), "b.safetensors": string(bf16), "model.safetensors.index.json": `{"weight_map":{"w":"a.safetensors"}}`,
		}, `{"format":"safetensors","parameters":700000,"precision":"bfloat16"}`},
		"gptq": {map[string]string{
			"model.safetensors": string(tensorFile(weight("l.qweight", "I32", 32, 100, 1000), weight("l.qzeros", "I32", 32, 10), weight("l.scales", "F16", 16, 100), weight("embed", "F16", 16, 10, 1000))),
			"config.json":       `{"model_type":"qwen2","quantization_config":{"quant_method":"gptq","bits":4}}`,
		}, `{"family":"qwen2","architecture":"transformer","format":"safetensors","parameters":810000,"precision":"int4","quantization":"gptq"}`},
		"bitsandbytes": {map[string]string{
			"model.safetensors": string(tensorFile(weight("l.weight", "U8", 8, 50000, 1), weight("l.weight.absmax", "F32", 32, 10), weight("l.weight.quant_state.x", "U8", 8, 10))),
			"config.json":       `{"model_type":"qwen2","quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}}`,
		}, `{"family":"qwen2","architecture":"transformer","format":"safetensors","parameters":100000,"precision":"int4","quantization":"bitsandbytes"}`},
		"fp8": {map[string]string{
			"model.safetensors": string(tensorFile(weight("l.weight", "F8_E4M3", 8, 1000, 100), weight("l.weight_scale_inv", "F32", 32, 10))),
			"config.json":       `{"model_type":"deepseek_v3","quantization_config":{"quant_method":"fp8"}}`,
		}, `{"family":"deepseek_v3","architecture":"transformer","format":"safetensors","parameters":100000,"precision":"float8_e4m3","quantization":"fp8"}`},
		"several types": {map[string]string{"model.safetensors": string(tensorFile(weight("a", "F16", 16, 1000), weight("b", "F32", 32, 2000), weight("c", "I8", 8, 20)))},
			`{"format":"safetensors","parameters":3020,"precision":"float32,float16"}`},
		"vision": {map[string]string{"config.json": `{"model_type":"qwen2_5_vl","architectures":["Qwen2_5_VLForConditionalGeneration"],"vision_config":{"depth":1},"video_token_id":5,"text_config":{"max_position_embeddings":100,"torch_dtype":"bfloat16"}}`},
			`{"family":"qwen2_5_vl","architecture":"transformer","precision":"bfloat16","inputTypes":["text","image","video"],"outputTypes":["text"],"contextLength":100}`},
		"diffusion": {map[string]string{"model_index.json": `{"_class_name":"FluxPipeline"}`, "unet/diffusion_pytorch_model.safetensors": string(bf16), "vae/diffusion_pytorch_model.safetensors": string(bf16)},
			`{"family":"Flux","architecture":"diffusion","format":"safetensors","parameters":1400000,"precision":"bfloat16","inputTypes":["text"],"outputTypes":["image"]}`},
		"embedding": {map[string]string{"config.json": `{"model_type":"bert","architectures":["BertModel"]}`, "modules.json": "[]", "1_Pooling/config.json": "{}"},
			`{"family":"bert","architecture":"transformer","inputTypes":["text"],"outputTypes":["embedding"]}`},
		"gguf": {map[string]string{"tiny-Q4_K_M.gguf": string(ggufFile(binary.LittleEndian))},
			`{"name":"Tiny","family":"llama","architecture":"transformer","format":"gguf","parameters":520,"precision":"int4","quantization":"Q4_K_M","inputTypes":["text"],"outputTypes":["text"],"reasoning":true,"toolUsage":true,"languages":["en"],"contextLength":4096}`},
		"languages of gguf and card": {map[string]string{"tiny-Q4_K_M.gguf": string(ggufFile(binary.LittleEndian)), "README.md": "---\nlanguage: [de, fr-CA, fr]\n---\n"},
			`{"name":"Tiny","family":"llama","architecture":"transformer","format":"gguf","parameters":520,"precision":"int4","quantization":"Q4_K_M","inputTypes":["text"],"outputTypes":["text"],"reasoning":true,"toolUsage":true,"languages":["de","fr"],"contextLength":4096}`},
		"speech":       {map[string]string{"README.md": "---\r\npipeline_tag: automatic-speech-recognition\r\nlicense: other\r\n---\r\n", "model.onnx": "x"}, `{"format":"onnx","inputTypes":["audio"],"outputTypes":["text"]}`},
		"pytorch":      {map[string]string{"pytorch_model.bin": "xx", "model.onnx": "x"}, `{"format":"pt"}`},
		"nothing":      {map[string]string{"a.txt": "x"}, `{}`},
		"odd settings": {map[string]string{"config.json": `{"model_type":7,"torch_dtype":"float16"}`}, `{"precision":"float16"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			files := map[string][]byte{}
			for path, content := range tt.files {
				files[path] = []byte(content)
			}
			facts, problems := inspect.Describe(directory(files))
			got, err := json.Marshal(facts)
			if err != nil || string(got) != tt.want || len(problems) > 0 {
				t.Errorf("got  %s\nwant %s\nproblems %v", got, tt.want, problems)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	good := tensorFile(weight("w", "BF16", 16, 10))
	facts, problems := inspect.Describe(directory(map[string][]byte{
		"a.safetensors":                good[:len(good)-1],
		"sub/b.safetensors":            good,
		"c.gguf":                       []byte("GGUF"),
		"sub2/x.gguf":                  []byte("GGUF"),
		"config.json":                  []byte("{"),
		"README.md":                    []byte("---\n\t: x\n---\n"),
		"model.safetensors.index.json": []byte(`{"weight_map":{"w":"a.safetensors","v":"gone.safetensors"}}`),
		"tokenizer_config.json":        make([]byte, 17<<20),
	}))
	var got []string
	for _, p := range problems {
		got = append(got, p.Path)
	}
	want := "README.md a.safetensors config.json gone.safetensors sub2/x.gguf tokenizer_config.json"
	if strings.Join(got, " ") != want || facts.Parameters != 10 {
		t.Errorf("problems of %q, %d parameters", got, facts.Parameters)
	}
	for _, p := range problems {
		if p.Path == "gone.safetensors" && !errors.Is(p, model.ErrNotFound) || p.Path == "a.safetensors" && !errors.Is(p, model.ErrCorrupt) {
			t.Errorf("%v", p)
		}
	}
}

func TestParamSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "", 99: "", 100: "0.1K", 999: "1K", 1000: "1K", 124_439_808: "124.4M", 999_949: "999.9K", 999_960: "1M", 7_615_616_512: "7.6B", 8_000_000_000: "8B",
		671_026_419_200: "671B", 1_000_000_000_000: "1T", 2_500_000_000_000_000: "2.5Q",
	} {
		if got := inspect.ParamSize(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func Example() {
	file := tensorFile(inspect.Tensor{Name: "embed", Type: "BF16", Shape: []int64{3, 4}, Size: 24})
	w, err := inspect.ReadSafetensors(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, t := range w.Tensors {
		fmt.Println(t.Name, t.Type, t.Shape)
	}
	// Output: embed BF16 [3 4]
}
