package inspect

import (
	"encoding/json"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// config is what a config.json of the transformers library, or a model_index.json of diffusers, says.
type config struct {
	Class         string          `json:"_class_name"`
	ModelType     string          `json:"model_type"`
	Architectures []string        `json:"architectures"`
	Type          string          `json:"torch_dtype"`
	NewType       string          `json:"dtype"`
	Positions     float64         `json:"max_position_embeddings"`
	Vision        json.RawMessage `json:"vision_config"`
	Audio         json.RawMessage `json:"audio_config"`
	Video         *float64        `json:"video_token_id"`
	Text          struct {
		Positions float64 `json:"max_position_embeddings"`
		Type      string  `json:"torch_dtype"`
	} `json:"text_config"`
	Quantization struct {
		Method string  `json:"quant_method"`
		Bits   float64 `json:"bits"`
		Load4  bool    `json:"load_in_4bit"`
		Load8  bool    `json:"load_in_8bit"`
		Groups map[string]struct {
			Weights struct {
				Bits float64 `json:"num_bits"`
			} `json:"weights"`
		} `json:"config_groups"`
	} `json:"quantization_config"`
}

// config reads the model's own description of itself.
func (d *describer) config() config {
	var c config
	for _, name := range []string{"config.json", "model_index.json"} {
		data := d.read(name)
		if data == nil {
			continue
		}
		if err := json.Unmarshal(data, &c); err != nil {
			if _, wrongType := err.(*json.UnmarshalTypeError); wrongType {
				return c // the fields that could be read are filled
			}
			d.problem(name, fmt.Errorf("not valid JSON: %v: %w", err, model.ErrInvalid))
		}
		return c
	}
	return c
}

// packedBits is the size of a quantized parameter in bits, 0 where the config tells of no quantization.
func (c config) packedBits() int64 {
	q := c.Quantization
	switch {
	case q.Bits > 0 && q.Bits <= 8:
		return int64(q.Bits)
	case q.Load4 || q.Method == "mxfp4":
		return 4
	case q.Load8:
		return 8
	}
	for _, g := range q.Groups {
		if g.Weights.Bits > 0 && g.Weights.Bits <= 8 {
			return int64(g.Weights.Bits)
		}
	}
	if q.Method != "" {
		return 8 // only helper tensors matter then
	}
	return 0
}

func (f *Facts) addWeights(s summary, c config) {
	f.Parameters = s.parameters()
	f.Precision = s.precision()
	f.Quantization = c.Quantization.Method
	if s.metadata == nil {
		return
	}
	text := func(key string) string { v, _ := s.metadata[key].(string); return v }
	family := text("general.architecture")
	f.Family = family
	f.Architecture = architectureOf(family)
	f.Name = text("general.name")
	f.Licenses = spdx(text("general.license"))
	f.Languages = languages(s.metadata["general.languages"])
	f.ContextLength, _ = Integer(s.metadata[family+".context_length"])
	if kind, ok := Integer(s.metadata["general.file_type"]); ok {
		f.Quantization = ggufFileTypes[kind]
	}
	f.InputTypes, f.OutputTypes = []string{"text"}, []string{"text"}
	if _, pools := s.metadata[family+".pooling_type"]; pools {
		f.OutputTypes = []string{"embedding"}
	}
}

// ggufFileTypes are the names of the mixtures of block types by their number. Types that quantize nothing have none.
var ggufFileTypes = map[int64]string{
	2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S",
	15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS",
	24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 36: "TQ1_0", 37: "TQ2_0",
	38: "MXFP4",
}

// architectureOf guesses the kind of network from the name of a family. Nearly everything today is a transformer.
func architectureOf(family string) string {
	family = strings.ToLower(family)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(family, w) })
	}
	switch {
	case family == "":
		return ""
	case has("mamba"):
		return "mamba"
	case has("rwkv", "lstm"):
		return "rnn"
	case has("resnet", "convnext", "efficientnet", "mobilenet", "yolo", "vgg", "regnet"):
		return "cnn"
	}
	return "transformer"
}

func (f *Facts) addConfig(c config) {
	if c.ModelType != "" {
		f.Family, f.Architecture = c.ModelType, architectureOf(c.ModelType)
	}
	if strings.HasSuffix(c.Class, "Pipeline") {
		f.Family, f.Architecture = strings.TrimSuffix(c.Class, "Pipeline"), "diffusion"
		f.InputTypes, f.OutputTypes = []string{"text"}, []string{"image"}
	}
	for _, n := range []float64{c.Positions, c.Text.Positions} {
		if n >= 1 && n < 1<<53 {
			f.ContextLength = int64(n)
		}
	}
	for _, t := range []string{c.NewType, c.Type, c.Text.Type} {
		if f.Precision == "" {
			f.Precision = configPrecisions[strings.TrimPrefix(t, "torch.")]
		}
	}
	for _, a := range c.Architectures {
		if strings.HasSuffix(a, "ForCausalLM") || strings.HasSuffix(a, "ForConditionalGeneration") || strings.HasSuffix(a, "LMHeadModel") {
			f.InputTypes, f.OutputTypes = []string{"text"}, []string{"text"}
			f.addInputs(c)
			break
		}
	}
}

// configPrecisions are the specification's words for those of config.json.
var configPrecisions = map[string]string{
	"bfloat16": "bfloat16", "float16": "float16", "float32": "float32", "float64": "float64", "float8_e4m3fn": "float8_e4m3", "float8_e5m2": "float8_e5m2",
}

func (f *Facts) addInputs(c config) {
	present := func(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }
	if strings.Contains(c.ModelType, "whisper") {
		f.InputTypes = []string{"audio"}
		return
	}
	if present(c.Vision) {
		f.InputTypes = append(f.InputTypes, "image")
	}
	if present(c.Audio) {
		f.InputTypes = append(f.InputTypes, "audio")
	}
	if c.Video != nil {
		f.InputTypes = append(f.InputTypes, "video")
	}
}

// addTokenizer looks at the chat template, which has a place for what a model was trained to do.
func (f *Facts) addTokenizer(template string) {
	f.ToolUsage = strings.Contains(template, "tool_call") || strings.Contains(template, "if tools") || strings.Contains(template, "[AVAILABLE_TOOLS]")
	f.Reasoning = strings.Contains(template, "<think>") || strings.Contains(template, "reasoning_content") || strings.Contains(template, "enable_thinking")
}

// ParamSize writes a number of parameters as the specification wants it: a count with at most one decimal, and a letter
// for its scale. It is empty below a hundred.
func ParamSize(n int64) string {
	scales := []struct {
		letter string
		size   float64
	}{{"K", 1e3}, {"M", 1e6}, {"B", 1e9}, {"T", 1e12}, {"Q", 1e15}}
	if n < 100 {
		return ""
	}
	i := 0
	// 999,960 is 1M, not 1000K.
	for i+1 < len(scales) && math.Round(float64(n)/scales[i].size*10)/10 >= 1000 {
		i++
	}
	text := fmt.Sprintf("%.1f", float64(n)/scales[i].size)
	return strings.TrimSuffix(text, ".0") + scales[i].letter
}

// FormatOf names the format of a weight file by its ending; empty when the ending belongs to none.
func FormatOf(name string) string { return formats[strings.ToLower(path.Ext(name))] }
