package inspect

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/model-csi/model-csi/pkg/model"
)

// card is the head of a README.md as model hubs use it.
type card struct {
	// License and Language are a string or a list of strings.
	License  any    `json:"license"`
	Language any    `json:"language"`
	Pipeline string `json:"pipeline_tag"`
	Name     string `json:"model_name"`
}

// maxCard bounds the head of a model card.
const maxCard = 256 << 10

// card reads the model card's head; it is empty when there is none.
func (d *describer) card() card {
	var c card
	head := cardHead(d.read("README.md"))
	if head == nil {
		return c
	}
	if err := yaml.Unmarshal(head, &c); err != nil {
		d.problem("README.md", fmt.Errorf("its head is not valid YAML: %w", model.ErrInvalid))
		return card{}
	}
	return c
}

// cardHead is what stands between two lines of three dashes at the start.
func cardHead(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	rest, ok := bytes.CutPrefix(text, []byte("---\n"))
	if !ok {
		return nil
	}
	head, _, ok := bytes.Cut(rest, []byte("\n---"))
	if !ok || len(head) > maxCard {
		return nil
	}
	return head
}

func (f *Facts) addCard(c card) {
	if c.Name != "" {
		f.Name = c.Name
	}
	var licenses []string
	for _, l := range stringsOf(c.License) {
		licenses = append(licenses, spdx(l)...)
	}
	if len(licenses) > 0 {
		f.Licenses = licenses
	}
	if found := languages(c.Language); len(found) > 0 {
		f.Languages = found
	}
	if t, ok := pipelines[c.Pipeline]; ok {
		f.InputTypes, f.OutputTypes = strings.Fields(t[0]), strings.Fields(t[1])
	}
}

var language = regexp.MustCompile(`^[a-z]{2}$`)

// languages keeps the codes of a language or a list of them, and leaves out longer ones and words such as "multilingual".
func languages(v any) []string {
	return slices.DeleteFunc(stringsOf(v), func(l string) bool { return !language.MatchString(l) })
}

func stringsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// spdxNames maps the identifiers of model hubs, which are lower case, to those of SPDX. Licenses that SPDX does not list
// are left out: the specification asks for SPDX expressions.
var spdxNames = map[string]string{
	"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd": "BSD-3-Clause", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "isc": "ISC",
	"gpl": "GPL-3.0-or-later", "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "lgpl-2.1": "LGPL-2.1-only", "lgpl-3.0": "LGPL-3.0-only",
	"agpl-3.0": "AGPL-3.0-only", "mpl-2.0": "MPL-2.0", "unlicense": "Unlicense", "cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-3.0": "CC-BY-3.0",
	"cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
	"cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0", "cc-by-nd-4.0": "CC-BY-ND-4.0", "zlib": "Zlib", "wtfpl": "WTFPL", "artistic-2.0": "Artistic-2.0", "bsl-1.0": "BSL-1.0",
	"epl-2.0": "EPL-2.0", "eupl-1.2": "EUPL-1.2", "odbl": "ODbL-1.0", "ofl-1.1": "OFL-1.1", "ecl-2.0": "ECL-2.0", "afl-3.0": "AFL-3.0", "ms-pl": "MS-PL",
}

func spdx(name string) []string {
	if id, ok := spdxNames[strings.ToLower(strings.TrimSpace(name))]; ok {
		return []string{id}
	}
	return nil
}

// pipelines tells the kinds of input and output of a task, in the words of the specification.
var pipelines = map[string][2]string{
	"text-generation": {"text", "text"}, "text2text-generation": {"text", "text"}, "translation": {"text", "text"},
	"summarization": {"text", "text"}, "question-answering": {"text", "text"}, "fill-mask": {"text", "text"},
	"text-classification": {"text", "other"}, "token-classification": {"text", "other"}, "zero-shot-classification": {"text", "other"},
	"text-ranking": {"text", "other"}, "feature-extraction": {"text", "embedding"}, "sentence-similarity": {"text", "embedding"},
	"image-text-to-text": {"text image", "text"}, "visual-question-answering": {"text image", "text"}, "video-text-to-text": {"text video", "text"},
	"audio-text-to-text": {"text audio", "text"}, "any-to-any": {"text image audio video", "text image audio"},
	"image-to-text": {"image", "text"}, "image-classification": {"image", "other"}, "object-detection": {"image", "other"},
	"image-segmentation": {"image", "image"}, "depth-estimation": {"image", "image"}, "image-to-image": {"image", "image"},
	"image-feature-extraction": {"image", "embedding"}, "text-to-image": {"text", "image"}, "text-to-video": {"text", "video"},
	"image-to-video": {"image", "video"}, "text-to-speech": {"text", "audio"}, "text-to-audio": {"text", "audio"},
	"automatic-speech-recognition": {"audio", "text"}, "audio-classification": {"audio", "other"}, "audio-to-audio": {"audio", "audio"},
}
