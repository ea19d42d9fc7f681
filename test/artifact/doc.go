// Package artifact makes model artifacts for tests, the demo and benchmarks, and pushes them into a registry.
//
// A model is a list of [File]: of a directory, of a few words, or generated from a seed. [Push] packs it as CNCF ModelPack
// does, or as one of the generations before it, and streams every layer: nothing large is held in memory, so that models
// of many gigabytes can be made. [TinyModel] is a small model that loaders accept.
package artifact
