package store

import (
	"math"

	"github.com/dustin/go-humanize"
)

// Policy bounds the cache. The zero value keeps 10 % of the filesystem free and sets no other limit.
type Policy struct {
	// ReservePercent of the filesystem stays free, and ReserveBytes at least. Both zero means 10 percent: that is
	// where kubelet, by default, begins to evict pods.
	ReservePercent float64
	ReserveBytes   int64
	// MaxBytes is the most that blobs may take; 0 means no limit.
	MaxBytes int64
}

const defaultReservePercent = 10

// Reserve returns the bytes of a filesystem of the given size that the policy keeps free.
func (p Policy) Reserve(total int64) int64 {
	percent := p.ReservePercent
	if percent == 0 && p.ReserveBytes == 0 {
		percent = defaultReservePercent
	}
	return max(int64(float64(total)*percent/100), p.ReserveBytes)
}

// Usage is what a store holds and what its filesystem has, in bytes.
type Usage struct {
	Blobs      int   `json:"blobs"`
	BlobBytes  int64 `json:"blobBytes"`
	Unfinished int64 `json:"unfinishedBytes"`
	Views      int   `json:"views"`
	Leases     int   `json:"leases"`
	Free       int64 `json:"freeBytes"`
	FreeInodes int64 `json:"freeInodes"`
	Total      int64 `json:"totalBytes"`
	Reserve    int64 `json:"reserveBytes"`
}

// Room is an amount of a filesystem: bytes, and inodes, which run out first where files are small.
type Room struct {
	Bytes  int64 `json:"bytes"`
	Inodes int64 `json:"inodes"`
}

// Everything is more room than there is.
var Everything = Room{Bytes: math.MaxInt64, Inodes: math.MaxInt64}

// Plus adds, without turning over.
func (r Room) Plus(o Room) Room {
	return Room{Bytes: add(r.Bytes, o.Bytes), Inodes: add(r.Inodes, o.Inodes)}
}

// Minus subtracts.
func (r Room) Minus(o Room) Room { return Room{Bytes: r.Bytes - o.Bytes, Inodes: r.Inodes - o.Inodes} }

// add stays at the largest number where a sum of two that are not negative would turn over: sizes are what a manifest
// claims.
func add(a, b int64) int64 {
	if a > 0 && b > math.MaxInt64/4-a {
		return math.MaxInt64 / 4
	}
	return a + b
}

// covers reports whether r is at least as much as want.
func (r Room) covers(want Room) bool { return r.Bytes >= want.Bytes && r.Inodes >= want.Inodes }

// Evicted says what an eviction removed.
type Evicted struct {
	Views      int `json:"views"`
	Blobs      int `json:"blobs"`
	Unfinished int `json:"unfinished"`
	Room
}

// Usage scans the cache.
func (s *Store) Usage() (Usage, error) {
	inv, err := s.scan()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Blobs: len(inv.blobs), Views: len(inv.views), Leases: len(s.Leases())}
	for _, b := range inv.blobs {
		u.BlobBytes += b.bytes
	}
	for _, p := range inv.parts {
		u.Unfinished += p.bytes
	}
	free, total, err := s.space()
	u.Free, u.FreeInodes, u.Total = free.Bytes, free.Inodes, total.Bytes
	u.Reserve = s.opts.Policy.Reserve(total.Bytes)
	return u, err
}

// space asks the filesystem of the root.
func (s *Store) space() (free, total Room, err error) { return spaceOf(s.root) }

// Capacity is how many bytes the cache can hold at most: its limit, or what its filesystem has.
func (s *Store) Capacity() (int64, error) {
	_, total, err := s.space()
	if err != nil {
		return 0, err
	}
	if limit := s.opts.Policy.MaxBytes; limit > 0 {
		return min(limit, total.Bytes), nil
	}
	return total.Bytes, nil
}

// reserve is what the policy keeps free of a filesystem. A few inodes are kept for leases, whatever the policy.
func (p Policy) reserve(total Room) Room {
	return Room{Bytes: p.Reserve(total.Bytes), Inodes: max(minReserveInodes, min(total.Inodes/100, maxReserveInodes))}
}

const (
	minReserveInodes = 16
	maxReserveInodes = 1024
)

func bytesText(n int64) string {
	if n < 0 {
		return "-" + bytesText(-n)
	}
	return humanize.IBytes(uint64(n))
}
