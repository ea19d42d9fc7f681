// Package store keeps verified files on the host.
//
// A blob is one whole file under the digest of its content; it becomes visible only after its bytes were hashed and
// synced, and never changes afterwards. A [Writer] collects the bytes of a blob whose digest is known and survives a
// restart: what its checkpoint covers is not fetched again. A [Scratch] collects a file whose digest is known only at
// its end, as for the members of an archive. A view is a directory of hard links to blobs that shows one tree; volumes
// are bind mounts of views. A [Lease] says that a volume uses a view. A pin protects blobs and views of the running
// process between the check that they are there and the lease; [Store.Keep] does so for a reference and for good.
//
// The link count of a blob's inode counts the views that show it: a blob with one link is used by no view. Eviction
// removes views that no lease, mount or pin holds, least recently used first, with the blobs that only they showed, and
// unfinished or unused blobs by age among them.
//
// Below the root:
//
//	lock               held while a process owns the root; says who
//	blobs/ALG/HEX      whole files, 0444; HEX.x is the executable twin, 0555
//	ingest/            unfinished blobs and their checkpoints
//	views/HEX/         hard links, one directory a tree digest
//	leases/            one file a volume and target path
//	kept/              one file a reference that eviction must leave
//	quarantine/        views that showed damaged blobs, until nobody has them mounted
//	records/KIND/      small facts of other packages: pinned references, manifests, archive members
//	trash/             directories on their way out
package store
