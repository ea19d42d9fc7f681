package artifact

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// TinyModel is a directory as the Hub shows it for a small language model: safetensors in two shards with their index,
// config, tokenizer, generation config and README. Loaders accept the files; the weights are noise. parameters is the
// number of 16 bit weights in each shard; 0 means a few thousand.
func TinyModel(parameters int) []File {
	const hidden, vocabulary = 16, 32
	if parameters <= 0 {
		parameters = 4096
	}
	rows := max(parameters/hidden, vocabulary)
	shards := []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
	tensors := []string{"model.embed_tokens.weight", "lm_head.weight"}
	var files []File
	weightMap := map[string]string{}
	for i, name := range shards {
		files = append(files, Safetensors(name, uint64(i+1), Tensor{Name: tensors[i], Shape: []int{rows, hidden}}))
		weightMap[tensors[i]] = name
	}
	vocab := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2}
	for i := len(vocab); i < vocabulary; i++ {
		vocab[string(rune('a'+i-3))] = i
	}
	return append(files,
		jsonFile("model.safetensors.index.json", map[string]any{
			"metadata": map[string]any{"total_size": 2 * rows * hidden * 2}, "weight_map": weightMap}),
		jsonFile("config.json", map[string]any{
			"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "torch_dtype": "bfloat16",
			"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 0, "num_attention_heads": 2,
			"vocab_size": rows, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}),
		jsonFile("generation_config.json", map[string]any{"bos_token_id": 1, "eos_token_id": 2, "max_length": 64}),
		jsonFile("tokenizer.json", map[string]any{
			"version": "1.0", "added_tokens": []any{}, "normalizer": nil, "pre_tokenizer": nil, "post_processor": nil, "decoder": nil,
			"model": map[string]any{"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}}),
		jsonFile("tokenizer_config.json", map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}),
		Text("README.md", "---\nlicense: apache-2.0\n---\n\n# tiny\n\nA language model of a few thousand random weights.\n"),
	)
}

// Tensor of 16 bit numbers (BF16).
type Tensor struct {
	Name  string
	Shape []int
}

// Safetensors is a file in the safetensors format: eight bytes with the length of the header, the header in JSON, the data.
// The data come from the seed.
func Safetensors(path string, seed uint64, tensors ...Tensor) File {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var size int64
	for _, t := range tensors {
		n := int64(2)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		header[t.Name] = map[string]any{"dtype": "BF16", "shape": t.Shape, "data_offsets": []int64{size, size + n}}
		size += n
	}
	text := mustJSON(header)
	// The format aligns the data to eight bytes by spaces after the header.
	text = append(text, bytes.Repeat([]byte(" "), (8-len(text)%8)%8)...)
	head := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	data := Weights(path, size, seed)
	return File{Path: path, Size: int64(len(head)) + size, Open: func() (io.ReadCloser, error) {
		body, err := data.Open()
		if err != nil {
			return nil, err
		}
		return io.NopCloser(io.MultiReader(bytes.NewReader(head), body)), nil
	}}
}

func jsonFile(path string, v any) File { return Text(path, string(mustJSON(v))+"\n") }

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("%T to JSON: %v", v, err)) // only maps and strings come here
	}
	return b
}
