// Package registry runs the CNCF distribution registry inside a test, a demo or a benchmark.
//
// [Start] serves on a loopback socket with real HTTP. Manifests, uploads and Basic authentication are those of the
// distribution registry; its files lie in RAM. Blobs are sent straight from their files, so that the kernel copies them
// and a benchmark measures the client rather than the registry.
//
// Every request is recorded: [Registry.Stats] and [Registry.Requests] tell what a client transferred. A [Fault] changes
// answers (reset, truncation, 503, a wrong range and so on) of the requests that a [Rule] selects, and
// [Registry.SetPace] limits the rate of each connection. Two things that the distribution registry can do only with
// outside help are played by this package: a token service whose tokens expire, and a content delivery network whose
// URLs do.
package registry
