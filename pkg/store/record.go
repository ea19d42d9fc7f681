package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
)

// Records are small durable facts that other packages keep beside the blobs, as JSON, by kind and name. A record that
// is lost costs a request to the registry and nothing else, so one that cannot be read counts as absent.

// recordFile is where a record is. kind is a word from our own code.
func (s *Store) recordFile(kind, name string) string {
	return s.path("records", kind, hashedName(name))
}

// hashedName derives the name of a JSON file from text that comes from outside, so that no text can leave a directory.
func hashedName(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:]) + ".json"
}

// loadFiles hands the files of a directory that the process before wrote to take. One that cannot be read, or that take
// refuses, is set aside: it would otherwise stop every start.
func (s *Store) loadFiles(dir string, take func(path string, data []byte) error) error {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(dir, e.Name())
		data, err := os.ReadFile(path)
		if err == nil {
			err = take(path, data)
		}
		if err != nil {
			s.log.Warn("state file set aside", "file", path, "error", err)
			if err := os.Rename(path, s.path("trash", e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

type record struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// PutRecord stores value under kind and name, replacing what was there.
func (s *Store) PutRecord(kind, name string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("record %s %s: %w", kind, name, err)
	}
	data, err := json.Marshal(record{Name: name, Value: raw})
	if err != nil {
		return fmt.Errorf("record %s %s: %w", kind, name, err)
	}
	path := s.recordFile(kind, name)
	err = atomicfile.Write(path, data)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(s.path("records", kind), 0o700); err == nil {
			err = atomicfile.Write(path, data)
		}
	}
	if err != nil {
		return fmt.Errorf("record %s %s: %w", kind, name, spaceError(err))
	}
	return nil
}

// Record reads what PutRecord stored into value and reports whether there was something.
func (s *Store) Record(kind, name string, value any) bool {
	path := s.recordFile(kind, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil || r.Name != name {
		return false
	}
	now := s.now()
	_ = os.Chtimes(path, now, now) // the age by which unused records are dropped; a miss costs nothing
	return json.Unmarshal(r.Value, value) == nil
}

// recordNames lists the names of the records of a kind.
func (s *Store) recordNames(kind string) ([]string, error) {
	entries, err := os.ReadDir(s.path("records", kind))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		var r record
		if data, err := os.ReadFile(s.path("records", kind, e.Name())); err == nil && json.Unmarshal(data, &r) == nil {
			out = append(out, r.Name)
		}
	}
	return out, err
}

// DropRecord forgets a record; there need not be one.
func (s *Store) DropRecord(kind, name string) error {
	return atomicfile.Remove(s.recordFile(kind, name))
}
