package ingest

import (
	"context"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/model-csi/model-csi/pkg/model"
)

// Body is an open response: bytes of a blob from Offset on.
type Body struct {
	io.ReadCloser
	// Offset of the first byte. It is 0, whatever was asked, when the server does not serve ranges.
	Offset int64
	// Length of the body in bytes; -1 when it is not known.
	Length int64
}

// OpenFunc opens length bytes of a blob from offset on; a length of -1 means up to the end. The context governs the
// body until it is closed. Errors wrap the kinds of package model; those that wrap model.ErrUnavailable are tried again.
type OpenFunc func(ctx context.Context, offset, length int64) (Body, error)

// Job is one blob to fetch.
type Job struct {
	Blob model.Blob
	// Host names the server for the limits that are kept per host; any text that is the same for the same server.
	Host string
	Open OpenFunc
	// Progress is told the bytes that arrived, as they arrive; a negative number takes bytes back that are fetched
	// again. It may be nil, must be fast, and is called from several goroutines.
	Progress func(n int64)
	// Trouble is told about failures that are tried again; nil ignores them.
	Trouble func(err error)
}

// File receives the bytes of a blob whose digest is known. WriteAt is called concurrently for disjoint ranges; memory,
// offset and length are aligned to 4096 bytes except at the blob's end.
type File interface {
	io.WriterAt
	// Resume returns the number of durable bytes at the start and the hash state after them.
	Resume() (offset int64, state []byte)
	// Checkpoint makes the first offset bytes durable and remembers the hash state after them.
	Checkpoint(offset int64, state []byte) error
	// Commit publishes the blob; every byte was written and the digest is right.
	Commit() error
}

// Member receives the bytes of one regular file of an archive.
type Member interface {
	io.WriterAt
	// Commit publishes the file under the blob that was computed.
	Commit(model.Blob) error
	// Close drops the file unless it was committed.
	Close() error
}

// Limits bound what an archive may expand to. Zero means the default.
type Limits struct {
	// Members is the greatest number of entries in one archive (default 1,000,000).
	Members int
	// Bytes is the greatest sum of the sizes of its files (default 16 TiB).
	Bytes int64
	// Ratio is the greatest factor by which a compressed archive may grow, beyond its first 64 MiB (default 200).
	Ratio int64
}

func (l Limits) withDefaults() Limits {
	if l.Members <= 0 {
		l.Members = 1_000_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 16 << 40
	}
	if l.Ratio <= 0 {
		l.Ratio = 200
	}
	return l
}

// Options of an engine. The zero value works.
type Options struct {
	// Memory is the budget of all buffers in bytes (default 128 MiB, at least two spans). One more span may be taken for
	// a range that is asked for a second time.
	Memory int64
	// Connections is the greatest number of requests under way to one host (default 16). One more may be made for a
	// range that takes much longer than others.
	Connections int
	// IdleTimeout is how long a response may deliver nothing before it is given up and continued (default 30 s).
	IdleTimeout time.Duration
	// MinRate is the lowest speed of a response in bytes a second, measured over IdleTimeout, before it is given up and
	// continued on another connection (default 16 KiB).
	MinRate int64
	// GiveUp is how long a job may go without a single new byte before it fails (default 2 h).
	GiveUp time.Duration
	// Limits bound archives.
	Limits Limits
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

const (
	// maxSpan is the size of one range request: large enough that requests cost nothing, small enough that eight of
	// them fit into the budget. Measured against 8 MiB it takes a tenth off a local pull.
	maxSpan = 16 << 20
	// minSpan is the buffer of a small blob.
	minSpan = 64 << 10
	// retryBase and retryMax bound the pause between attempts, which doubles and has jitter.
	retryBase = 200 * time.Millisecond
	retryMax  = 30 * time.Second
	// maxArchives bounds the archives taken apart at once, each of which has buffers of its own.
	maxArchives = 4
)

// Engine fetches blobs. It is safe for concurrent use; all jobs share its memory and connection budgets.
type Engine struct {
	opts     Options
	log      *slog.Logger
	buffers  *pool
	hosts    *hosts
	archives *semaphore.Weighted
	window   *semaphore.Weighted // the one archive with a large zstd window
}

// New returns an engine.
func New(o Options) *Engine {
	if o.Memory <= 0 {
		o.Memory = 128 << 20
	}
	o.Memory = max(o.Memory, 2*maxSpan)
	if o.Connections <= 0 {
		o.Connections = 16
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 30 * time.Second
	}
	if o.MinRate <= 0 {
		o.MinRate = 16 << 10
	}
	if o.GiveUp <= 0 {
		o.GiveUp = 2 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Limits = o.Limits.withDefaults()
	return &Engine{
		opts: o, log: o.Logger,
		buffers:  newPool(o.Memory),
		hosts:    newHosts(o.Connections, o.Memory/2),
		archives: semaphore.NewWeighted(maxArchives),
		window:   semaphore.NewWeighted(1),
	}
}

func (j Job) progress(n int64) {
	if j.Progress != nil {
		j.Progress(n)
	}
}

func (j Job) trouble(err error) {
	if j.Trouble != nil {
		j.Trouble(err)
	}
}
