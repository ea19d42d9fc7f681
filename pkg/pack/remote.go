package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
)

// Remote is the content of a file that is not on disk, for File.Content.
type Remote struct {
	// Blob is the digest and the size of the file.
	Blob model.Blob
	// Open returns the content from offset on, any number of times. What it returns fails if the bytes are not those of
	// Blob.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Inspect opens the content for those who read parts of it, as Inventory.Inspectable hands it on.
	Inspect func() (inspect.ReadAtCloser, error)
}

// Files makes an inventory of files that are not on disk. It categorises them, and fails with model.ErrInvalid where two
// have the same path or a path cannot be in a model.
func Files(files []File, o ScanOptions) (Inventory, error) {
	var inv Inventory
	var faults []error
	taken := map[string]bool{}
	for _, f := range files {
		clean, err := model.CleanPath(f.Path)
		switch {
		case err != nil || clean != f.Path:
			faults = append(faults, fmt.Errorf("%q cannot be a path in a model: %w", f.Path, model.ErrInvalid))
		case taken[f.Path]:
			faults = append(faults, fmt.Errorf("%s is there twice: %w", f.Path, model.ErrInvalid))
		case f.Content == nil:
			faults = append(faults, fmt.Errorf("%s has no content: %w", f.Path, model.ErrInvalid))
		}
		taken[f.Path] = true
		f.Category, f.Untested = categorise(f.Path, f.Size, o.Overrides)
		inv.Files = append(inv.Files, f)
	}
	if len(inv.Files) == 0 {
		faults = append(faults, fmt.Errorf("there is no file to pack: %w", model.ErrInvalid))
	}
	slices.SortFunc(inv.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return inv, errors.Join(faults...)
}

// failures keeps the first reason why a content could not be read. A target knows only that it ended early.
type failures struct {
	mu  sync.Mutex // guards err
	err error
}

func (f *failures) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// cause returns what was noted in place of err, if there is one at all.
func (f *failures) cause(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.err != nil {
		return f.err
	}
	return err
}

// watch returns open with eyes on what it returns.
func (f *failures) watch(open func(int64) (io.ReadCloser, error)) func(int64) (io.ReadCloser, error) {
	return func(offset int64) (io.ReadCloser, error) {
		r, err := open(offset)
		if err != nil {
			f.note(err)
			return nil, err
		}
		if _, onDisk := r.(*os.File); onDisk {
			return r, nil // the kernel sends it, and its failures are those of the upload
		}
		return &failingReader{ReadCloser: r, failures: f}, nil
	}
}

type failingReader struct {
	io.ReadCloser
	failures *failures
	closed   atomic.Bool
}

// Read implements io.Reader.
func (r *failingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !r.closed.Load() {
		r.failures.note(err)
	}
	return n, err
}

// Close implements io.Closer. What a reading that goes on meanwhile fails with is not its own failure.
func (r *failingReader) Close() error {
	r.closed.Store(true)
	return r.ReadCloser.Close()
}
