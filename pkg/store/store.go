package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

// Options of a store. The zero value works.
type Options struct {
	// Policy bounds the cache; see Policy for the defaults.
	Policy Policy
	// InUse names the views that are mounted, in addition to the leased ones; nil means none.
	InUse func() (map[digest.Digest]bool, error)
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Now defaults to time.Now.
	Now func() time.Time
}

// Store is the state root of one node. It is safe for concurrent use.
type Store struct {
	root string
	lock *os.File
	opts Options
	log  *slog.Logger
	now  func() time.Time

	commits   committer
	copies    *copyBudget
	scratches atomic.Uint64 // names of temporary files

	mu       sync.Mutex // guards what follows, and every removal of a blob or view
	pins     map[digest.Digest]int
	writers  map[string]bool // by the path of the unfinished blob
	leases   map[leaseKey]Lease
	reserved Room // promised to running pulls
	// checkpoints tells which unfinished blobs have one, by their path.
	checkpoints map[string]bool
	kept        map[string]Kept // by reference; their digests are in pins as well
	quarantined bool            // a view may be in quarantine

	reserving sync.Mutex // one reservation is decided at a time; taken before evicting
	evicting  sync.Mutex // one eviction at a time; taken before mu
	viewing   sync.Mutex // one view is built at a time; taken before mu
}

var directories = []string{
	"blobs/sha256", "blobs/sha512", "ingest", "views", "leases", "records", "kept", quarantineDir, "trash",
}

// Open takes the root, creating it where needed, and removes what a crash left half done. It fails with
// model.ErrConflict when another process holds the root, and says which. Close gives the root back.
func Open(root string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("root %q must be an absolute path: %w", root, model.ErrInvalid)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("state root: %w", err)
	}
	if err := os.Chmod(root, 0o700); err != nil {
		return nil, fmt.Errorf("state root: %w", err)
	}
	lock, err := acquire(filepath.Join(root, "lock"), o.Now())
	if err != nil {
		return nil, err
	}
	s := &Store{
		root: root, lock: lock, opts: o, log: o.Logger, now: o.Now,
		pins: make(map[digest.Digest]int), writers: make(map[string]bool), leases: make(map[leaseKey]Lease),
		checkpoints: make(map[string]bool), kept: make(map[string]Kept), copies: newCopyBudget(),
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// Close gives the root back. Writers must have been closed before.
func (s *Store) Close() error { return s.lock.Close() }

// Root is the directory that Open was given.
func (s *Store) Root() string { return s.root }

// acquire locks the file and writes into it who holds it. The kernel releases the lock with the process.
func acquire(path string, now time.Time) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 256)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("state root %s is held by %s; stop that process or use another --root: %w",
			filepath.Dir(path), bytes.TrimSpace(holder[:n]), model.ErrConflict)
	}
	host, _ := os.Hostname()
	text := fmt.Sprintf("process %d on %s since %s\n", os.Getpid(), host, now.UTC().Format(time.RFC3339))
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock file: %w", err), f.Close())
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// recover makes the directories and clears what an interrupted process left: temporary files, views built half, trash,
// and unfinished blobs without a usable checkpoint.
func (s *Store) recover() error {
	for _, d := range directories {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return fmt.Errorf("state root: %w", err)
		}
	}
	if err := emptyDir(s.path("trash")); err != nil {
		return err
	}
	for _, d := range []string{"views", "leases", "kept"} {
		if err := removeTemporary(s.path(d)); err != nil {
			return err
		}
	}
	kinds, err := os.ReadDir(s.path("records"))
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if err := removeTemporary(s.path("records", k.Name())); err != nil {
			return err
		}
	}
	if err := s.recoverIngest(); err != nil {
		return err
	}
	if err := s.loadQuarantine(); err != nil {
		return err
	}
	return errors.Join(s.loadLeases(), s.loadKept())
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func removeTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isTemporary(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
