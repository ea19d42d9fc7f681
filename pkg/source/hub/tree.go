package hub

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

var (
	// commitPattern is a full object name of git, by SHA-1 or SHA-256.
	commitPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	oidPattern    = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// parseCommit reads the answer to a question about a revision, and nothing of it but the commit.
func parseCommit(body []byte) (string, error) {
	var answer struct {
		SHA string `json:"sha"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || !commitPattern.MatchString(answer.SHA) {
		return "", fmt.Errorf("it names no commit: %w", model.ErrInvalid)
	}
	return answer.SHA, nil
}

// entry is a file of a listing. Its digest is known where the file is in LFS, else its object name in git is.
type entry struct {
	path   string
	size   int64
	digest digest.Digest
	oid    string
}

// parsePage reads a page of a recursive listing. Directories are implied by what is in them. It fails with
// model.ErrInvalid for what cannot be a path or an object name, and with model.ErrUnsupported for entries that are not
// files.
func parsePage(body []byte) ([]entry, error) {
	var list []struct {
		Type string `json:"type"`
		OID  string `json:"oid"`
		Size int64  `json:"size"`
		Path string `json:"path"`
		LFS  *struct {
			OID    string `json:"oid"`
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		} `json:"lfs"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("it is not a listing: %s: %w", wire.Bounded(err.Error()), model.ErrInvalid)
	}
	var out []entry
	for _, e := range list {
		clean, err := model.CleanPath(e.Path)
		if err != nil {
			return nil, err
		}
		if clean != e.Path {
			return nil, fmt.Errorf("path %.300q is not in its clean form: %w", e.Path, model.ErrInvalid)
		}
		switch {
		case e.Type == "directory":
			continue
		case e.Type != "file":
			return nil, fmt.Errorf("%q is a %.50q and not a file, which the Hub does not deliver; use a revision without it: %w", e.Path, e.Type, model.ErrUnsupported)
		case e.LFS != nil:
			oid := strings.TrimPrefix(e.LFS.OID, "sha256:")
			if oid == "" {
				oid = e.LFS.SHA256
			}
			d, err := model.ParseDigest("sha256:" + oid)
			if err != nil || e.LFS.Size < 0 {
				return nil, fmt.Errorf("file %q: its LFS object %.100q of %d bytes is none: %w", e.Path, oid, e.LFS.Size, model.ErrInvalid)
			}
			out = append(out, entry{path: e.Path, size: e.LFS.Size, digest: d})
		case !oidPattern.MatchString(e.OID) || e.Size < 0:
			return nil, fmt.Errorf("file %q: its git object %.100q of %d bytes is none: %w", e.Path, e.OID, e.Size, model.ErrInvalid)
		default:
			out = append(out, entry{path: e.Path, size: e.Size, oid: e.OID})
		}
	}
	return out, nil
}

// nextPage returns the query of the next page (RFC 8288), empty when there is none. Only the query is taken from the
// link: a mirror's links often name the original, and no link may send the token elsewhere.
func nextPage(h http.Header) (string, error) {
	for _, value := range h.Values("Link") {
		for value != "" {
			_, rest, ok := strings.Cut(value, "<")
			if !ok {
				break
			}
			target, parameters, ok := strings.Cut(rest, ">")
			if !ok {
				return "", fmt.Errorf("its Link header has no end: %w", model.ErrInvalid)
			}
			parameters, value, _ = strings.Cut(parameters, ",")
			if !isNext(parameters) {
				continue
			}
			u, err := url.Parse(target)
			if err != nil || u.RawQuery == "" {
				return "", fmt.Errorf("its link to the next page has no query: %w", model.ErrInvalid)
			}
			return u.RawQuery, nil
		}
	}
	return "", nil
}

func isNext(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `"`), "next") {
			return true
		}
	}
	return false
}

// pointerStart begins every LFS pointer (version 1 of their specification).
const pointerStart = "version https://git-lfs.github.com/spec/v1\n"

// isPointer reports whether a file is an LFS pointer: what git stores in the place of a large file.
func isPointer(content []byte) bool {
	const most = 1024 // the specification's own limit
	if len(content) >= most || !strings.HasPrefix(string(content), pointerStart) {
		return false
	}
	_, oid, ok := strings.Cut(string(content), "\noid sha256:")
	if !ok || len(oid) < 64 {
		return false
	}
	_, err := hex.DecodeString(oid[:64])
	return err == nil
}
