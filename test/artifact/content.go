package artifact

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is one file of a model.
type File struct {
	// Path is relative to the model, slash separated.
	Path string
	// Mode has permission bits; 0 means 0644.
	Mode fs.FileMode
	Size int64
	// Open reads the content from its beginning. The caller closes it.
	Open func() (io.ReadCloser, error)
}

func (f File) mode() fs.FileMode {
	if f.Mode == 0 {
		return 0o644
	}
	return f.Mode.Perm()
}

// FromDir lists the regular files below a directory, in lexical order.
func FromDir(dir string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		files = append(files, File{
			Path: filepath.ToSlash(rel), Mode: info.Mode().Perm(), Size: info.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(name) },
		})
		return nil
	})
	return files, err
}

// Text is a file of these characters.
func Text(path, content string) File {
	return File{Path: path, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

// Random is a file of size bytes that no compression makes smaller. The same seed gives the same bytes.
func Random(path string, size int64, seed uint64) File {
	return File{Path: path, Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(newStream(seed), size)), nil
	}}
}

// Weights is like Random with bytes that are distributed roughly as in 16 bit weights, where every other byte is a sign
// and an exponent of few values: compression takes about a fifth away.
func Weights(path string, size int64, seed uint64) File {
	return File{Path: path, Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(&weights{stream: newStream(seed)}, size)), nil
	}}
}

// newStream is AES in counter mode over zeros: the fastest source of random bytes that every machine has.
func newStream(seed uint64) io.Reader {
	var key, iv [aes.BlockSize]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for keys of a wrong length
	}
	return cipher.StreamReader{S: cipher.NewCTR(block, iv[:]), R: zeros{}}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type weights struct {
	stream io.Reader
	odd    bool
}

func (w *weights) Read(p []byte) (int, error) {
	n, err := w.stream.Read(p)
	rest := p[:n]
	for !w.odd && len(rest) >= 8 { // four weights at a time
		binary.LittleEndian.PutUint64(rest, binary.LittleEndian.Uint64(rest)&0x83ff83ff83ff83ff|0x3800380038003800)
		rest = rest[8:]
	}
	for i := range rest {
		if w.odd {
			rest[i] = rest[i]&0x83 | 0x38
		}
		w.odd = !w.odd
	}
	return n, err
}
