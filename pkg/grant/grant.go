// Package grant remembers who has proven access to which model, and until when.
//
// A cache that is shared by a node must not become a way around a registry's permissions. Whoever wants a cached model
// proves that they may read its manifest, with their own credential. The [Ledger] remembers such a proof by registry,
// repository, manifest digest and credential, so that a warm publish needs no network for a while: the grant is valid
// for the TTL, and holds for the longer grace time only while the registry cannot be asked.
//
// No credential is stored. The ledger keeps a keyed hash under a random key that belongs to the node, so that its file
// is of no use anywhere else.
package grant

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// State is what the ledger knows about an access.
type State int

const (
	// None: never proven, or too long ago. Only the registry can answer.
	None State = iota
	// Grace: proven, longer ago than the TTL. It holds when the registry cannot be reached.
	Grace
	// Valid: proven within the TTL.
	Valid
)

func (s State) String() string { return [...]string{"none", "grace", "valid"}[s] }

// Options of a ledger. Zero durations mean the defaults.
type Options struct {
	// TTL of a proof (default 10 min).
	TTL time.Duration
	// Grace is how long after the proof it holds while the registry is away (default 24 h).
	Grace time.Duration
	// Now defaults to time.Now.
	Now func() time.Time
}

// Ledger is the node's memory of proofs. It is safe for concurrent use and survives a restart.
type Ledger struct {
	path string
	key  []byte
	opts Options

	saving sync.Mutex // one writer of the file at a time; taken before mu

	mu     sync.Mutex // guards proofs
	proofs map[string]time.Time
}

const (
	ledgerFile = "grants.json"
	keyFile    = "node.key"
	keyLength  = 32
)

// Open reads the ledger of a directory that only root can read, making its key where there is none. A ledger that
// cannot be read is begun anew: everybody proves themselves again.
func Open(dir string, o Options) (*Ledger, error) {
	if o.TTL <= 0 {
		o.TTL = 10 * time.Minute
	}
	if o.Grace <= 0 {
		o.Grace = 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	key, err := nodeKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("key of the grants: %w", err)
	}
	l := &Ledger{path: filepath.Join(dir, ledgerFile), key: key, opts: o, proofs: make(map[string]time.Time)}
	data, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("grants: %w", err)
	}
	if json.Unmarshal(data, &l.proofs) != nil || l.proofs == nil {
		l.proofs = make(map[string]time.Time)
	}
	return l, nil
}

func nodeKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == keyLength {
		return key, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, keyLength)
	_, _ = rand.Read(key) // never fails
	return key, atomicfile.Write(path, key)
}

// Key names one access: a credential to one manifest in one repository. Two repositories with the same digest are two
// permissions.
func (l *Ledger) Key(ref model.Ref, d digest.Digest, c model.Credential) string {
	m := hmac.New(sha256.New, l.key)
	for _, part := range []string{
		ref.Scheme, ref.Registry, ref.Repository, d.String(),
		c.Username, c.Password.Reveal(), c.RefreshToken.Reveal(), c.AccessToken.Reveal(),
	} {
		// The length in front keeps ("ab", "c") and ("a", "bc") apart.
		_, _ = fmt.Fprintf(m, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(m.Sum(nil))
}

// State looks an access up.
func (l *Ledger) State(key string) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.proofs[key]
	age := l.opts.Now().Sub(at)
	switch {
	case !ok || age > l.opts.Grace || age < 0: // a clock that was set back proves nothing
		return None
	case age > l.opts.TTL:
		return Grace
	}
	return Valid
}

// Prove records that the registry granted the access now. An error means that the proof does not survive a restart.
func (l *Ledger) Prove(key string) error {
	l.mu.Lock()
	now := l.opts.Now()
	l.proofs[key] = now
	for k, at := range l.proofs {
		if now.Sub(at) > l.opts.Grace {
			delete(l.proofs, k)
		}
	}
	l.mu.Unlock()
	return l.save()
}

// Revoke forgets a proof, because the registry said no.
func (l *Ledger) Revoke(key string) error {
	l.mu.Lock()
	_, known := l.proofs[key]
	delete(l.proofs, key)
	l.mu.Unlock()
	if !known {
		return nil
	}
	return l.save()
}

// Len counts the proofs that are remembered.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.proofs)
}

// save writes what the ledger knows. Nobody who looks a proof up waits for the disk.
func (l *Ledger) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	data, err := json.Marshal(l.proofs)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(l.path, data); err != nil {
		return fmt.Errorf("grants: %w", err)
	}
	return nil
}
