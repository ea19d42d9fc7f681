// Package hub reads models, datasets and spaces from the Hugging Face Hub, or from a server that speaks its HTTP API.
// It implements the interfaces of package source.
//
// # Snapshots
//
// A revision is pinned to a commit. The Hub has no manifest, so this package writes one for a commit: a canonical JSON
// document (see [MediaType]) of the repository, the commit, and the path, size and sha256 of every file. The same commit
// always gives the same bytes, whose digest stands for it everywhere else. For files in LFS or Xet storage the Hub knows
// the sha256. Of the others it has only git's SHA-1, so they are fetched when the commit is resolved, compared with it,
// and hashed; their number and size are limited, and what fits is kept in memory for the reading that follows.
//
// # Permission
//
// A gated repository shows its listing to everybody and its files only to those who were let in. So nothing but a file
// proves access: Resolve and Check read the first byte of the largest file. Tokens go to the Hub's own origin and to no
// host that it redirects to.
package hub
