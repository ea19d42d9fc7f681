// Package pull leads from a reference to a tree whose every blob is on the node.
//
// [Puller.Pull] pins the reference to a manifest, proves with the caller's own credentials that the caller may read it
// (also when every byte is cached), plans which blobs are needed, makes room, fetches what is missing, and returns the
// tree with its blobs protected from eviction. The work of fetching belongs to the puller and is shared: everybody who
// wants the same manifest and selection joins it, a caller whose context ends leaves it running, and when nobody has
// asked for a while it is cancelled and its bytes stay for the next time. Blobs are shared between different models in
// the same way. Authorisation is never shared.
//
// The package conducts the source, the formats, the ingest engine, the store and the ledger of grants; it opens no
// file and no connection itself.
package pull
