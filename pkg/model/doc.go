// Package model is the vocabulary that every other package speaks.
//
// A [Ref] is how a user names a model: a registry reference, or a name in another scheme such as hf://. Resolving a
// Ref pins it to the digest of one manifest; a [Selection] says which where there are several. A [Blob] is content that a digest and a size identify. A [Tree] is what a model
// looks like once it is a directory: a sorted list of [File] entries, each naming a blob, a directory or a symbolic
// link. Every source and every format ends in a Tree, and everything that stores, shows or mounts a model starts from
// one. A [Member] is an entry of an archive layer before a format decided where it belongs.
//
// A failure is one of the kinds in this package (ErrNotFound and its siblings), wrapped with what was being done to
// which object. A [Secret] cannot print itself. An [Attempt] tells what keeps a volume from its pod.
//
// The package imports the standard library, go-digest and a private helper for the advice in errors, does no I/O, and
// decides nothing that a format, a store or a driver should decide.
package model
