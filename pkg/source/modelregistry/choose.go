package modelregistry

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

const (
	modelArtifact = "model-artifact"
	stateLive     = "LIVE"
)

// usable are the states of an artifact whose bytes can be expected to be there. Artifacts are UNKNOWN unless their
// author says otherwise.
var usable = map[string]bool{"": true, "UNKNOWN": true, stateLive: true, "REFERENCE": true}

// newest returns the element that was created last, of those that are wanted. Whether a server sorts its lists depends
// on its release.
func newest[T interface{ base() entity }](list []T, want func(T) bool) (best T, ok bool) {
	for _, e := range list {
		if want(e) && (!ok || older(best.base(), e.base())) {
			best, ok = e, true
		}
	}
	return best, ok
}

func older(a, b entity) bool {
	return cmp.Or(cmp.Compare(number(a.Created), number(b.Created)), cmp.Compare(number(a.ID), number(b.ID))) < 0
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 63)
	return n
}

// choose takes the newest model artifact and reads its URI. Errors say what there is instead.
func choose(artifacts []artifact) (model.Ref, error) {
	states := ""
	chosen, ok := newest(artifacts, func(a artifact) bool {
		if a.Type != "" && a.Type != modelArtifact {
			return false
		}
		if !usable[a.State] {
			states = wire.Bounded(a.State)
		}
		return usable[a.State]
	})
	switch {
	case !ok && states != "":
		return model.Ref{}, fmt.Errorf("its model artifact is %s, so that its bytes are not to be used: %w", states, model.ErrNotFound)
	case !ok:
		return model.Ref{}, fmt.Errorf("it has no model artifact; register one with the URI of the model: %w", model.ErrNotFound)
	case chosen.URI == "" && chosen.StorageKey != "":
		return model.Ref{}, fmt.Errorf("its artifact is in the object store of %q and has no URI; %s: %w", wire.Bounded(chosen.StorageKey), pushAdvice, model.ErrUnsupported)
	case chosen.URI == "":
		return model.Ref{}, fmt.Errorf("its artifact has no URI; register the model with one: %w", model.ErrUnsupported)
	}
	return fromURI(chosen.URI)
}

const pushAdvice = "push the model to a registry and register that URI"

// fromURI reads the URI of an artifact: a reference, or one of the other ways in which KServe and the Model Registry's
// own client write the same. Where it can be none of them, the error says what would work, without showing what may be
// secret in a URL.
func fromURI(uri string) (model.Ref, error) {
	uri = strings.TrimSpace(uri)
	scheme, rest, ok := strings.Cut(uri, "://")
	switch strings.ToLower(scheme) {
	case "hf":
		return parse("hf://" + kserveRevision(rest))
	case "https":
		if path, ok := strings.CutPrefix(rest, model.HubHost+"/"); ok {
			return parse("hf://" + hubPage(path))
		}
		return model.Ref{}, unsupported(uri)
	case model.SchemeOCI, model.SchemeOllama:
		return parse(uri)
	case model.SchemeModelRegistry:
		return model.Ref{}, fmt.Errorf("its artifact's URI is a name in a model registry again; register the URI of the model itself: %w", model.ErrUnsupported)
	}
	if ok {
		return model.Ref{}, unsupported(uri)
	}
	return parse(uri)
}

func parse(s string) (model.Ref, error) {
	ref, err := model.ParseRef(s)
	if err != nil {
		return model.Ref{}, fmt.Errorf("its artifact's URI: %w", err)
	}
	return ref, nil
}

// unsupported says which URI it was, as far as that cannot be secret: scheme and host.
func unsupported(uri string) error {
	shown := "of an unknown form"
	if u, err := url.Parse(uri); err == nil && u.Host != "" {
		shown = u.Scheme + "://" + u.Host
	}
	return fmt.Errorf("its artifact's URI is %s, which is not read; %s (oci://, hf:// and ollama:// are): %w", wire.Bounded(shown), pushAdvice, model.ErrUnsupported)
}

// kserveRevision replaces the colon that KServe writes before a revision: "org/name:revision".
func kserveRevision(name string) string {
	slash, colon := strings.LastIndexByte(name, '/'), strings.LastIndexByte(name, ':')
	if colon > slash && !strings.Contains(name, "@") {
		return name[:colon] + "@" + name[colon+1:]
	}
	return name
}

// hubPagePattern is the path of a page or file of the Hub: a repository, and what follows it.
var hubPagePattern = regexp.MustCompile(`^((?:datasets/|spaces/)?[^/?#]+/[^/?#]+)(?:/(?:tree|blob|resolve)/([^/?#]+)(?:/[^?#]*)?)?/?(?:[?#].*)?$`)

// hubPage turns the path of a page or file of the Hub, as the Model Registry's client registers it, into the
// repository at that revision: a file alone is not a model, and the include attribute selects files.
func hubPage(path string) string {
	m := hubPagePattern.FindStringSubmatch(path)
	switch {
	case m == nil:
		return path
	case m[2] == "":
		return m[1]
	}
	return m[1] + "@" + m[2]
}
