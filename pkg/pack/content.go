package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// epoch is the time that every file in an artifact has: the specification wants a known constant for the sake of
// reproducible artifacts.
var epoch = time.Unix(0, 0).UTC()

// content is a file in the form in which a layer holds it. It can be read any number of times, from any offset.
type content struct {
	file    File
	archive Archive
}

// measured is what the first reading of a content has found out.
type measured struct {
	blob model.Blob
	// diffID is the digest without compression.
	diffID digest.Digest
}

// readSize is how much is read at once: larger reads gain nothing, and each transfer under way holds one buffer.
const readSize = 1 << 20

// measure reads the content once. read is told how many bytes of the file it has read since the last call.
func (c content) measure(ctx context.Context, read func(int64)) (measured, error) {
	if c.file.Content != nil {
		if c.archive != Raw {
			return measured{}, fmt.Errorf("%s: a file that is not on disk becomes a raw layer, not %s: %w", c.file.Path, c.archive, model.ErrUnsupported)
		}
		return measured{blob: c.file.Content.Blob, diffID: c.file.Content.Blob.Digest}, nil
	}
	outer, inner := sha256.New(), sha256.New()
	var size counter
	compressed := c.archive == TarGzip || c.archive == TarZstd
	stored := io.MultiWriter(outer, &size)
	plain := stored
	var finish func() error
	if compressed {
		z, err := compressor(c.archive, stored)
		if err != nil {
			return measured{}, err
		}
		plain, finish = io.MultiWriter(z, inner), z.Close
	}
	err := c.uncompressed(ctx, 0, read, func(r io.Reader) error {
		_, err := io.CopyBuffer(writerOnly{plain}, readerOnly{r}, make([]byte, readSize))
		return err
	})
	if err == nil && finish != nil {
		err = finish()
	}
	if err == nil {
		err = c.unchanged()
	}
	if err != nil {
		return measured{}, fmt.Errorf("%s: %w", c.file.Path, err)
	}
	m := measured{blob: model.Blob{Digest: digest.NewDigest(digest.SHA256, outer), Size: int64(size)}}
	m.diffID = m.blob.Digest
	if compressed {
		m.diffID = digest.NewDigest(digest.SHA256, inner)
	}
	return m, nil
}

// opener returns what opens the content within ctx.
func (c content) opener(ctx context.Context) func(int64) (io.ReadCloser, error) {
	if remote := c.file.Content; remote != nil {
		return func(offset int64) (io.ReadCloser, error) { return remote.Open(ctx, offset) }
	}
	return c.Open
}

// Open returns the content of a file on disk from offset on, as it is uploaded. The caller closes it.
func (c content) Open(offset int64) (io.ReadCloser, error) {
	if c.archive == TarGzip || c.archive == TarZstd {
		return c.openCompressed(offset)
	}
	f, err := os.Open(c.file.location)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.file.Path, withoutPath(err))
	}
	if c.archive == Raw {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	r, err := c.tar(f, offset)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{r, f}, nil
}

// uncompressed gives use a reader of the content without its compression, from offset on.
func (c content) uncompressed(ctx context.Context, offset int64, read func(int64), use func(io.Reader) error) (err error) {
	plain := c
	if c.archive != Raw {
		plain.archive = Tar
	}
	r, err := plain.Open(offset)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return use(&watchedReader{ctx: ctx, r: r, read: read})
}

// tar is an archive of one member, the file: header, content, and zeros up to the end of two empty records.
func (c content) tar(f *os.File, offset int64) (io.Reader, error) {
	var header bytes.Buffer
	w := tar.NewWriter(&header)
	err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: c.file.Path, Size: c.file.Size, Mode: int64(c.file.Mode), ModTime: epoch, Format: tar.FormatUnknown,
	})
	if err != nil {
		return nil, fmt.Errorf("tar header of %s: %w", c.file.Path, err)
	}
	const record = 512
	padding := (record-c.file.Size%record)%record + 2*record
	parts := []*io.SectionReader{
		io.NewSectionReader(bytes.NewReader(header.Bytes()), 0, int64(header.Len())),
		io.NewSectionReader(f, 0, c.file.Size),
		io.NewSectionReader(bytes.NewReader(make([]byte, padding)), 0, padding),
	}
	var readers []io.Reader
	for _, part := range parts {
		skip := min(offset, part.Size())
		offset -= skip
		if _, err := part.Seek(skip, io.SeekStart); err != nil {
			return nil, err
		}
		readers = append(readers, part)
	}
	return io.MultiReader(readers...), nil
}

// compressor returns a writer whose output depends on its input alone: one level, no times, one block after the other.
func compressor(a Archive, w io.Writer) (io.WriteCloser, error) {
	if a == TarZstd {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	}
	return gzip.NewWriterLevel(w, gzip.DefaultCompression)
}

// openCompressed compresses while it is read. What lies before offset is compressed again and thrown away: compressed
// layers are small, or their owner has time.
func (c content) openCompressed(offset int64) (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		z, err := compressor(c.archive, w)
		if err == nil {
			err = c.uncompressed(context.Background(), 0, func(int64) {}, func(r io.Reader) error {
				_, err := io.CopyBuffer(z, r, make([]byte, readSize))
				return err
			})
			err = errors.Join(err, z.Close())
		}
		_ = w.CloseWithError(err) // nil is the end of the file
	}()
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// unchanged fails where somebody has written to the file since it was found.
func (c content) unchanged() error {
	if c.file.Content != nil {
		return nil // it has a digest from the start
	}
	info, err := os.Stat(c.file.location)
	if err != nil {
		return withoutPath(err)
	}
	if info.Size() != c.file.Size || !info.ModTime().Equal(c.file.modified) {
		return fmt.Errorf("the file changed while it was packed; run the command again when nobody writes to it: %w", model.ErrConflict)
	}
	return nil
}

// watchedReader ends with its context and tells how much was read.
type watchedReader struct {
	ctx  context.Context //nolint:containedctx // it lives as long as one reading
	r    io.Reader
	read func(int64)
}

func (w *watchedReader) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.r.Read(p)
	if n > 0 {
		w.read(int64(n))
	}
	return n, err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// writerOnly and readerOnly hide methods that would make io.CopyBuffer leave the buffer aside.
type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)
