// Package wire is what the sources that speak HTTP have in common: how an answer to a range is checked, where a redirect
// may lead, when a request is worth repeating, how long an answer may take, and which words of a server may be shown. It
// makes no requests of its own.
//
// A server is a stranger. Its answers are bounded, its words pass a [Redactor] before they reach an error, and nothing
// that it says about a blob is believed: whoever stores bytes hashes them.
package wire
