// Package pack makes CNCF ModelPack artifacts out of directories, and says whether an artifact follows the
// specification.
//
// [Scan] lists the files of a directory and puts each into a [Category]. [Push] hashes them, brings every file to a
// [Target] as a layer of its own, and at last the config and the manifest. A target is a repository of a registry or a
// [Layout] on disk. Files are read where they lie: there is no second copy, whatever their size.
//
// [Files] is the same for files of another artifact, which pass from there to the target, and [Copy] brings an artifact to
// another place as it is.
//
// The same directory gives the same digest, on every machine and whenever it is packed: layers are ordered by category
// and path, owners and times are constant, and nothing that depends on where the artifact goes is written into it.
//
// [ValidateManifest] and [ValidateConfig] hold an artifact, of whatever producer, against the specification.
package pack
