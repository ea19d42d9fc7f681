package modelregistry

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// server is a Model Registry over HTTP, as far as its OpenAPI document describes what is read: find by name, lists with
// pages, errors as objects with a code and a message.
type server struct {
	*httptest.Server

	mu sync.Mutex // guards what follows
	// token is what requests have to bring; empty means that everybody may ask.
	token string
	// old ignores orderBy, sortOrder and artifactType, as early releases do for some lists.
	old bool
	// page limits what one page holds, whatever is asked for.
	page      int
	models    []object
	versions  map[string][]object // by id of the model
	artifacts map[string][]object // by id of the version
	next      int
	requests  []string
	// answer replaces what the server would say; it reports whether it did.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

type object map[string]any

func newServer(t *testing.T) *server {
	s := &server{versions: map[string][]object{}, artifacts: map[string][]object{}, page: 100}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) id() string { s.next++; return strconv.Itoa(s.next) }

// register adds a version with one artifact for each URI, and the model if there is none of that name.
func (s *server) register(name, version string, uris ...string) (model, created object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.models, func(o object) bool { return o["name"] == name })
	if i < 0 {
		s.models = append(s.models, s.object(name))
		i = len(s.models) - 1
	}
	id := s.models[i]["id"].(string)
	v := s.object(version)
	v["registeredModelId"] = id
	s.versions[id] = append(s.versions[id], v)
	for _, uri := range uris {
		a := s.object(version + "-artifact")
		a["artifactType"], a["uri"], a["state"] = "model-artifact", uri, "UNKNOWN"
		a["modelFormatName"], a["modelFormatVersion"] = "onnx", "1"
		s.artifacts[v["id"].(string)] = append(s.artifacts[v["id"].(string)], a)
	}
	return s.models[i], v
}

// object is an entity with all that entities have.
func (s *server) object(name string) object {
	id := s.id()
	return object{
		"id": id, "name": name, "state": "LIVE", "description": "text", "externalId": "x" + id,
		"createTimeSinceEpoch": strconv.Itoa(1_700_000_000_000 + s.next), "lastUpdateTimeSinceEpoch": "1800000000000",
		"customProperties": object{
			"accuracy": object{"metadataType": "MetadataDoubleValue", "double_value": 0.9},
			"uri":      object{"metadataType": "MetadataStringValue", "string_value": "oci://evil.example.com/m:1"},
			"state":    object{"metadataType": "MetadataStringValue", "string_value": "DELETED"},
		},
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.URL.RequestURI())
	if s.answer != nil && s.answer(w, r) {
		return
	}
	if s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token {
		refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/model_registry/v1alpha3/")
	parts, q := strings.Split(path, "/"), r.URL.Query()
	switch {
	case !ok || r.Method != http.MethodGet:
		refuse(w, http.StatusNotFound, "no such path")
	case path == "registered_model":
		find(w, s.models, q.Get("name"))
	case path == "model_version":
		find(w, s.versions[q.Get("parentResourceId")], q.Get("name"))
	case len(parts) == 3 && parts[0] == "registered_models" && parts[2] == "versions":
		s.list(w, r, s.versions[parts[1]])
	case len(parts) == 3 && parts[0] == "model_versions" && parts[2] == "artifacts":
		s.list(w, r, s.artifacts[parts[1]])
	default:
		refuse(w, http.StatusNotFound, "no such path")
	}
}

func find(w http.ResponseWriter, list []object, name string) {
	i := slices.IndexFunc(list, func(o object) bool { return o["name"] == name })
	if i < 0 {
		refuse(w, http.StatusNotFound, "no entity found for name="+name)
		return
	}
	reply(w, http.StatusOK, list[i])
}

// list answers with one page. The token of the next one is opaque to clients.
func (s *server) list(w http.ResponseWriter, r *http.Request, all []object) {
	q := r.URL.Query()
	all = slices.Clone(all)
	if kind := q.Get("artifactType"); kind != "" && !s.old {
		all = slices.DeleteFunc(all, func(o object) bool { return o["artifactType"] != kind })
	}
	if q.Get("orderBy") == "CREATE_TIME" && q.Get("sortOrder") == "DESC" && !s.old {
		slices.SortStableFunc(all, func(a, b object) int {
			return cmp.Compare(b["createTimeSinceEpoch"].(string), a["createTimeSinceEpoch"].(string))
		})
	}
	from := 0
	if token := q.Get("nextPageToken"); token != "" {
		if _, err := fmt.Sscanf(token, "opaque+/=%d", &from); err != nil {
			refuse(w, http.StatusBadRequest, "bad token")
			return
		}
	}
	size, err := strconv.Atoi(q.Get("pageSize"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "bad pageSize")
		return
	}
	size = min(size, s.page)
	items, next := all[from:min(from+size, len(all))], ""
	if from+size < len(all) {
		next = fmt.Sprintf("opaque+/=%d", from+size)
	}
	reply(w, http.StatusOK, object{"items": items, "size": len(items), "pageSize": size, "nextPageToken": next})
}

func refuse(w http.ResponseWriter, status int, message string) {
	reply(w, status, object{"code": strconv.Itoa(status), "message": message})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
