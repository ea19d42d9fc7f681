// Package atomicfile replaces small files so that a crash leaves the old content or the new, never a part of either.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write writes data aside, syncs it, renames it over path and syncs the directory. The file has mode 0600.
// Temporary files of interrupted writes match [TempPattern].
func Write(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// TempPattern is what the names of unfinished files look like, for os.CreateTemp and filepath.Match.
const TempPattern = ".tmp-*"

// Remove removes path and syncs its directory. A path that does not exist is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the directory's entries durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
