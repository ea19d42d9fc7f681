package artifact

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"time"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Packing says how files become layers.
type Packing string

// The packings of ModelPack. Raw layers are the files themselves.
const (
	Raw     Packing = "raw"
	Tar     Packing = "tar"
	TarGzip Packing = "tar+gzip"
	TarZstd Packing = "tar+zstd"
)

// layerReader streams the layer of some files. diff holds the digest of the uncompressed bytes after the end.
type layerReader struct {
	io.ReadCloser
	diff hash.Hash
}

func (l layerReader) diffID() digest.Digest { return digest.NewDigest(digest.SHA256, l.diff) }

func newLayer(p Packing, files []File, name func(File) string) (layerReader, error) {
	diff := sha256.New()
	if p == Raw {
		body, err := files[0].Open()
		if err != nil {
			return layerReader{}, err
		}
		return layerReader{struct {
			io.Reader
			io.Closer
		}{io.TeeReader(body, diff), body}, diff}, nil
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(writeArchive(writer, diff, p, files, name)) }()
	return layerReader{reader, diff}, nil
}

func writeArchive(w io.Writer, diff hash.Hash, p Packing, files []File, name func(File) string) error {
	packed := io.WriteCloser(nopCloser{w})
	switch p {
	case TarGzip:
		// Without searching for matches, which weights do not have; the faster levels with matches give up on them.
		z, err := kgzip.NewWriterLevel(w, gzip.HuffmanOnly)
		if err != nil {
			return err
		}
		packed = z
	case TarZstd:
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
		if err != nil {
			return err
		}
		packed = z
	}
	t := tar.NewWriter(io.MultiWriter(packed, diff))
	for _, f := range files {
		if err := writeMember(t, f, name(f)); err != nil {
			return fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return packed.Close()
}

func writeMember(t *tar.Writer, f File, name string) error {
	err := t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(f.mode()), Size: f.Size, ModTime: time.Unix(1735689600, 0), Format: tar.FormatPAX,
	})
	if err != nil {
		return err
	}
	body, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	_, err = io.Copy(t, body)
	return err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
