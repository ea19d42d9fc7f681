// Package ingest turns bytes from a network into blobs, at the speed of the machine and in bounded memory.
//
// A [Job] is one blob to fetch. Its bytes are fetched in spans, closed ranges of up to 16 MiB, by several connections at
// once. Spans are claimed in order, so that the one needed next is always under way; each lands in a buffer of the
// engine's fixed budget, is written at its offset, and then the same buffer passes the blob's hash in order. Nothing is
// read back from disk, and the blob is verified when its last byte has arrived. The state of the hash is checkpointed
// now and then, after the bytes that it covers were synced, so that an interrupted blob goes on from there.
//
// [Engine.File] stores the bytes as they are. [Engine.Archive] takes them for a tar, compressed or not, and turns each
// regular file in it into a blob of its own while it streams; the archive itself is hashed and not kept.
//
// The budget is shared so that every host finds some of it left, whatever others hold. A range that takes much longer than
// the others of its host is asked for a second time, within narrow bounds, and whichever answer is complete first counts.
//
// A server that refuses ranges is read in one stream. Interrupted responses are continued where they stopped, with
// growing pauses, for as long as the job's context lives and something arrives now and then.
package ingest
