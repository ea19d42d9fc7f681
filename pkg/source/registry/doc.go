// Package registry reads models from OCI registries, Docker's and Ollama's included. It implements the interfaces of
// package source and is the only importer of oras-go.
//
// # Hosts
//
// A reference names a registry; an endpoint is a server that answers for it. Without configuration the only endpoint is
// the registry itself, over verified TLS, or over plain HTTP where the reference names a loopback address. A directory
// of containerd's hosts.toml files adds mirrors, private CAs, client certificates and headers. Mirrors are asked in the
// order of the file, then the server; a mirror that fails is passed over and left alone for a while.
//
// # Identity
//
// The pod's credential goes to the server alone: the host that the reference names or that hosts.toml declares to be
// its server. Mirrors get what Options.MirrorKeychain has for their own host, else nothing but the headers that
// hosts.toml sets. Redirects and token services on other origins never see the registry's Authorization header; a
// token service, which the registry names in its challenge, sees the credential only over TLS or where it shares the
// plain HTTP host of the registry.
//
// A mirror that serves private content to everybody proves nothing about permissions. So a snapshot whose bytes came
// from mirrors is complete only when the server has confirmed that this identity may read the manifest, and Check asks
// nobody else. Where a mirror is the only way out of the network, make it the "server" of the hosts.toml file.
//
// # Network
//
// Every connection is checked against a list of addresses when it is dialled, so that neither a reference nor a
// redirect nor a token service reaches a metadata service, or the node itself unless the reference or hosts.toml names
// it. A proxy is dialled wherever it is, because the operator named it. It resolves the names behind it, so of what it
// reaches only addresses that are written in URLs are checked here; the rest is for the proxy's own rules.
//
// All traffic is HTTP/1.1. Ranges of large blobs are fastest over several TCP connections: each has its own congestion
// window, its own TLS records and its own reader, where HTTP/2 would put all of them behind one connection, one reading
// goroutine and one more copy of every byte.
package registry
