package ingest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/model"
)

// NewMember begins a regular file of an archive. size is what the archive says, in bytes, 0 when it does not; plausible
// tells that the stored bytes can hold as much without being decompressed, so that space may be allocated for it.
type NewMember func(size int64, plausible bool) (Member, error)

// Shape is how the bytes of an archive's blob are read.
type Shape int

const (
	// Tar: a tar, compressed or not; anything else is damaged.
	Tar Shape = iota
	// TarOrFile: a tar, compressed or not, or otherwise one file as it is, whose entry has no name.
	TarOrFile
	// CompressedFile: one file that is compressed with gzip or zstd, whose entry has no name.
	CompressedFile
)

// Archive fetches the blob, verifies it, and turns each regular file of the archive that it holds into a blob. It
// returns the archive's entries in order. Nothing about the entries' names is decided here.
//
// Files are committed while they stream: a file has its own digest, so it is right whatever becomes of the archive.
// The list is returned only when the archive's own digest was right. Errors: model.ErrCorrupt for bytes that are not
// what the digest says or no readable archive, model.ErrTooLarge beyond the engine's Limits.
func (e *Engine) Archive(ctx context.Context, job Job, shape Shape, create NewMember) ([]model.Member, error) {
	if err := e.archives.Acquire(ctx, 1); err != nil {
		return nil, contextError(ctx, err)
	}
	defer e.archives.Release(1)

	group, ctx := errgroup.WithContext(ctx)
	in := newStream(ctx, e.buffers)
	h := job.Blob.Digest.Algorithm().Hash()
	group.Go(func() error {
		defer in.end()
		return e.run(ctx, job, 0, nil, func(_ int64, buf []byte) error { return in.push(buf) })
	})
	hashed := make(chan struct{})
	group.Go(func() error {
		defer close(hashed)
		for s := range in.hash {
			_, _ = h.Write(s.buf)
			s.release()
		}
		return nil
	})
	var members []model.Member
	group.Go(func() error {
		defer in.drain()
		x := &splitter{engine: e, shape: shape, create: create, stored: in, size: job.Blob.Size, limits: e.opts.Limits}
		var err error
		members, err = x.run(ctx)
		return err
	})
	err := group.Wait()
	in.drain()
	if err != nil {
		// Bytes that were tampered with usually break the decompressor first; the digest is the better reason, and it
		// is known only when all bytes came. Either way the kind is the same.
		return nil, fmt.Errorf("archive %s: %w", job.Blob.Digest, err)
	}
	<-hashed
	if got := digest.NewDigest(job.Blob.Digest.Algorithm(), h); got != job.Blob.Digest {
		return nil, wrongDigest(job.Blob, got)
	}
	return members, nil
}

// splitter reads a tar and hands its files out.
type splitter struct {
	engine *Engine
	shape  Shape
	create NewMember
	stored *stream
	size   int64 // of the blob as it is stored
	limits Limits

	members []*model.Member // pointers, because a member's blob becomes known while the list grows
	bytes   int64
	names   int // bytes of all names
}

const (
	// maxName is PATH_MAX; a tar can hold names of a megabyte.
	maxName = 4096
	// maxNames in bytes bounds the memory for the list of members.
	maxNames = 64 << 20
)

// freeGrowth is how much any archive may expand to before its ratio is looked at: small files compress very well.
const freeGrowth = 64 << 20

func (x *splitter) run(ctx context.Context) ([]model.Member, error) {
	plain, closePlain, err := x.open(ctx)
	if err != nil {
		return nil, err
	}
	limited := &bounded{r: plain, x: x}
	w := newMemberWriter(ctx, x.engine)
	err = x.read(limited, w)
	if err == nil {
		// What follows the tar's end has to pass the hash as well. It may be no compressed data, only too much.
		if _, err = io.Copy(io.Discard, limited); !errors.Is(err, model.ErrTooLarge) {
			err = nil
		}
	}
	if err != nil {
		x.stored.abort()
	}
	closePlain() // from here on nobody else reads x.stored
	if err := errors.Join(err, w.close()); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, x.stored); err != nil {
		return nil, err
	}
	members := make([]model.Member, len(x.members))
	for i, m := range x.members {
		members[i] = *m
	}
	return members, nil
}

// open undoes the compression, where there is one.
func (x *splitter) open(ctx context.Context) (io.Reader, func(), error) {
	stored := bufio.NewReaderSize(x.stored, headSize)
	plain, closePlain, err := x.decompress(ctx, stored)
	if err != nil || x.shape != TarOrFile {
		return plain, closePlain, err
	}
	head := bufio.NewReaderSize(plain, headSize)
	if first, _ := head.Peek(tarBlock); isTar(first) {
		return head, closePlain, nil
	}
	if plain == io.Reader(stored) {
		x.shape = oneFile
		return head, closePlain, nil
	}
	closePlain()
	return nil, nil, fmt.Errorf("it is compressed and holds no tar: %w", model.ErrCorrupt)
}

// oneFile is what TarOrFile turns into for a blob that is no tar.
const oneFile Shape = -1

func (x *splitter) read(r io.Reader, w *memberWriter) error {
	switch x.shape {
	case oneFile:
		return x.single(r, x.size, w)
	case CompressedFile:
		return x.single(r, -1, w)
	}
	return x.split(tar.NewReader(r), w)
}

// single stores everything as one file without a name; a size of -1 is found out by reading.
func (x *splitter) single(r io.Reader, size int64, w *memberWriter) error {
	member, err := x.create(max(size, 0), true)
	if err != nil {
		return err
	}
	only := &model.Member{Mode: 0o644}
	x.members = append(x.members, only)
	err = w.write(r, size, member, func(b model.Blob) { only.Blob = b })
	if err != nil {
		return archiveError("file", 0, err)
	}
	return nil
}

const (
	headSize = 64 << 10
	tarBlock = 512
)

// isTar looks for the magic that POSIX and GNU tar write (pax(1), "ustar Interchange Format"), or for the end mark of
// an archive without entries.
func isTar(block []byte) bool {
	if len(block) < tarBlock {
		return false
	}
	return bytes.Equal(block[257:262], []byte("ustar")) || bytes.Equal(block, make([]byte, tarBlock))
}

func (x *splitter) split(r *tar.Reader, w *memberWriter) error {
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return archiveError("entry", len(x.members), err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if len(x.members) >= x.limits.Members {
			return fmt.Errorf("it has more than %d entries (max-files): %w", x.limits.Members, model.ErrTooLarge)
		}
		x.names += len(header.Name) + len(header.Linkname)
		if len(header.Name) > maxName || len(header.Linkname) > maxName || x.names > maxNames {
			return fmt.Errorf("entry %.80q: its name is longer than %d bytes, or all names together than %d: %w", header.Name, maxName, maxNames, model.ErrTooLarge)
		}
		if !utf8.ValidString(header.Name) || !utf8.ValidString(header.Linkname) {
			// Members are kept as JSON, which would make another name of it.
			return fmt.Errorf("entry %.80q: its name is not UTF-8: %w", header.Name, model.ErrInvalid)
		}
		m := &model.Member{Name: header.Name, Mode: header.FileInfo().Mode(), Link: header.Linkname}
		switch header.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			m.Mode, m.Link = m.Mode.Perm(), ""
		case tar.TypeLink:
			m.Mode, m.Hard = m.Mode.Perm(), true
		}
		x.members = append(x.members, m)
		if header.Typeflag != tar.TypeReg && header.Typeflag != tar.TypeGNUSparse {
			continue
		}
		if header.Size > x.limits.Bytes-x.bytes {
			return fmt.Errorf("entry %q: its files are larger than %d bytes: %w", header.Name, x.limits.Bytes, model.ErrTooLarge)
		}
		x.bytes += header.Size
		// The holes of a sparse file grow without being read.
		if x.bytes > freeGrowth && x.bytes/x.limits.Ratio > x.size {
			return fmt.Errorf("entry %q: its files are more than %d times its size: %w", header.Name, x.limits.Ratio, model.ErrTooLarge)
		}
		member, err := x.create(header.Size, header.Size <= x.size)
		if err != nil {
			return err
		}
		err = w.write(r, header.Size, member, func(b model.Blob) { m.Blob = b })
		if err != nil {
			return archiveError(fmt.Sprintf("entry %q", header.Name), len(x.members)-1, err)
		}
	}
}

// archiveError gives what the readers of archives say the kind of damaged content, and leaves other failures alone.
func archiveError(what string, index int, err error) error {
	if isKind(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return err
	}
	return fmt.Errorf("%s (number %d) cannot be read: %w (%w)", what, index+1, model.ErrCorrupt, err)
}

func isKind(err error) bool {
	for _, kind := range []error{model.ErrCorrupt, model.ErrUnavailable, model.ErrTooLarge, model.ErrNoSpace, model.ErrInvalid,
		model.ErrNotFound, model.ErrUnauthenticated, model.ErrDenied} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// bounded counts the expanded bytes and ends an archive that grows out of proportion.
type bounded struct {
	r io.Reader
	x *splitter
	n int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.n > freeGrowth && b.n/b.x.limits.Ratio > b.x.stored.read.Load() {
		return n, fmt.Errorf("it expands to more than %d times its size: %w", b.x.limits.Ratio, model.ErrTooLarge)
	}
	return n, err
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// skippableMagic follows one byte between 0x50 and 0x5f (RFC 8878, 3.1.2).
	skippableMagic = []byte{0x2a, 0x4d, 0x18}
)

// smallWindow is the zstd window, in bytes, that every archive may have without asking: it is what levels up to 19 use.
const smallWindow = 8 << 20

// decompress looks at the first bytes, not at a media type: producers mislabel archives.
func (x *splitter) decompress(ctx context.Context, buffered *bufio.Reader) (io.Reader, func(), error) {
	head, err := buffered.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, archiveError("gzip header", 0, err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, zstdMagic), len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], skippableMagic):
		return x.decompressZstd(ctx, buffered, head)
	}
	return buffered, func() {}, nil
}

// decompressZstd accounts for the window of the archive, which the decoder keeps in memory: a large one is taken from
// the engine's budget, for one archive at a time and never more than half of it, so that the rest can go on.
func (x *splitter) decompressZstd(ctx context.Context, r io.Reader, head []byte) (io.Reader, func(), error) {
	window, free := int64(smallWindow), func() {}
	var header zstd.Header
	if err := header.Decode(head); err == nil && !header.Skippable && header.WindowSize > smallWindow {
		window = int64(min(header.WindowSize, math.MaxInt64/2))
		if half := x.engine.opts.Memory / 2; window > half {
			return nil, nil, fmt.Errorf("its zstd window of %d bytes is more than half of the %d bytes for all transfers (memory-budget): %w",
				window, x.engine.opts.Memory, model.ErrTooLarge)
		}
		if err := x.engine.window.Acquire(ctx, 1); err != nil {
			return nil, nil, contextError(ctx, err)
		}
		back, err := x.engine.buffers.reserve(ctx, window)
		if err != nil {
			x.engine.window.Release(1)
			return nil, nil, contextError(ctx, err)
		}
		free = func() {
			back()
			x.engine.window.Release(1)
		}
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(uint64(max(window, smallWindow))), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
	if err != nil {
		free()
		return nil, nil, archiveError("zstd header", 0, err)
	}
	return z, func() { z.Close(); free() }, nil
}
