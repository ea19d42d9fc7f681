package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// nodeConfig names credentials from the node's docker config in logs and errors.
const nodeConfig = "node docker config"

// maxConfigSize is far above any docker config: one entry takes a few hundred bytes, or a few thousand with a token.
const maxConfigSize = 4 << 20

// FromDockerConfig returns the keychain of a docker config file on the node. The file is read when a credential is
// asked for, and again when it has changed. A file that does not exist has no credentials, as for docker itself; one
// that cannot be read or understood is an error. An empty path makes an anonymous keychain.
func FromDockerConfig(path string) model.Keychain {
	if path == "" {
		return model.Anonymous{}
	}
	return &fileKeychain{path: path}
}

type fileKeychain struct {
	path string

	// mu guards what was read last, and from which state of the file.
	mu    sync.Mutex
	state fileState
	rules rules
}

// fileState tells two contents of a path apart without reading them. Files that Kubernetes projects are replaced
// through a symbolic link, which changes all of these.
type fileState struct {
	modified time.Time
	size     int64
	file     os.FileInfo
}

func (s fileState) same(o fileState) bool {
	return s.file != nil && o.file != nil && s.size == o.size && s.modified.Equal(o.modified) && os.SameFile(s.file, o.file)
}

// Credentials implements model.Keychain.
func (k *fileKeychain) Credentials(_ context.Context, ref model.Ref) ([]model.Credential, error) {
	rs, err := k.load()
	if err == nil {
		var creds []model.Credential
		if creds, err = rs.credentials(ref); err == nil {
			return creds, nil
		}
	}
	return nil, fmt.Errorf("%s %s: %w", nodeConfig, k.path, err)
}

func (k *fileKeychain) load() (rules, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, err := os.Open(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		k.state, k.rules = fileState{}, nil
		return nil, nil
	}
	if err != nil {
		return nil, readError(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, readError(err)
	}
	now := fileState{modified: info.ModTime(), size: info.Size(), file: info}
	if now.same(k.state) {
		return k.rules, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, readError(err)
	}
	if len(data) > maxConfigSize {
		return nil, fmt.Errorf("is larger than %d bytes: %w", maxConfigSize, model.ErrTooLarge)
	}
	rs, err := parseDockerConfig(data, nodeConfig)
	if err != nil {
		return nil, err
	}
	k.state, k.rules = now, rs
	return rs, nil
}

// readError leaves out the path, which the caller names, and keeps the cause.
func readError(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}
