package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/registry"
)

// The codes in words that the table can hold several of.
var (
	mounted    []string
	denied     = []string{"PermissionDenied"}
	invalid    = []string{"InvalidArgument"}
	lost       = []string{"DataLoss"}
	unknown    = []string{"Unauthenticated"}
	away       = []string{"Unavailable"}
	tooLarge   = []string{"OutOfRange"}
	missing    = []string{"NotFound"}
	goesOn     = []string{"Aborted"}
	noToken    = []string{"Unauthenticated", "Unavailable", "Aborted"}
	noLocation = []string{"PermissionDenied", "Unavailable"}
	noService  = []string{"PermissionDenied", "Unauthenticated", "Unavailable"}
)

func redirect(to string) func(*registry.Call) {
	return func(c *registry.Call) { c.Send(307, nil, "Location", strings.ReplaceAll(to, "HOST", c.Host)) }
}

func raw(text string) func(*registry.Call) { return func(c *registry.Call) { c.Raw(text) } }

func statusOf(code int, header ...string) func(*registry.Call) {
	return func(c *registry.Call) { c.Send(code, []byte(`{"errors":[{"code":"X","message":"no"}]}`), header...) }
}

func manifestWith(header ...string) func(*registry.Call) {
	return func(c *registry.Call) { c.Send(200, honestManifest, header...) }
}

// hostileManifests are wrong answers to the question for a manifest.
func hostileManifests() []*hostile {
	const oci = ocispec.MediaTypeImageManifest
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 16<<20))
	_ = z.Close()
	other := digest.FromString("other")
	index := func(entries string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, entries)
	}
	entry := func(mediaType string, d digest.Digest, size int) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, d, size)
	}
	// Each index names the one before.
	nested := map[string][]byte{honestDigest.String(): honestManifest}
	top, mediaType := honestManifest, string(oci)
	for range 8 {
		next := index(entry(mediaType, digest.FromBytes(top), len(top)))
		top, mediaType = next, ocispec.MediaTypeImageIndex
		nested[digest.FromBytes(top).String()] = top
	}
	liar := index(entry(oci, honestDigest, 77))
	typeLiar := index(entry(ocispec.MediaTypeImageIndex, honestDigest, len(honestManifest)))
	serve := func(top []byte, documents map[string][]byte) func(*registry.Call) {
		return func(c *registry.Call) {
			_, name, _ := strings.Cut(c.URL.Path, "/manifests/")
			body, ok := documents[name]
			if !ok {
				body = top
			}
			c.Send(200, body)
		}
	}
	both := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[],%s`, honestManifest[1:])
	twice := fmt.Appendf(nil, `{"Layers":[{"digest":%q,"size":1}],%s`, other, honestManifest[1:])
	return []*hostile{
		{name: "other bytes than the digest", reference: "@" + other.String(), codes: lost},
		{name: "header names another digest", manifest: manifestWith("Content-Type", oci, "Docker-Content-Digest", other.String()), codes: lost},
		{name: "header names a sha512 digest of other bytes", manifest: manifestWith("Content-Type", oci, "Docker-Content-Digest", digest.SHA512.FromString("x").String()), codes: lost},
		{name: "header names an MD5 digest", manifest: manifestWith("Content-Type", oci, "Docker-Content-Digest", "md5:d41d8cd98f00b204e9800998ecf8427e"), codes: mounted},
		{name: "no content type", manifest: manifestWith(), codes: mounted},
		{name: "HTML content type", manifest: manifestWith("Content-Type", "text/html"), codes: mounted},
		{name: "header says index", manifest: manifestWith("Content-Type", ocispec.MediaTypeImageIndex), codes: invalid},
		{name: "manifests and layers", document: both, codes: invalid},
		{name: "layers twice in different case", document: twice, codes: invalid},
		{name: "indexes in indexes", manifest: serve(top, nested), codes: invalid, words: []string{"nested"}},
		{name: "index lies about the size", manifest: serve(liar, nested), codes: lost},
		{name: "index lies about the type", manifest: serve(typeLiar, nested), codes: invalid},
		{name: "endless manifest", manifest: func(c *registry.Call) {
			c.Head(200, "Content-Type", oci, "Transfer-Encoding", "chunked")
			c.Flood("1000\r\n"+strings.Repeat(" ", 4096)+"\r\n", 1<<40)
		}, codes: tooLarge},
		{name: "manifest announced as 100 GB", manifest: func(c *registry.Call) { c.Head(200, "Content-Length", "100000000000"); c.Hang() }, codes: tooLarge},
		{name: "negative length", manifest: raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"), codes: away},
		{name: "two lengths", manifest: raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}"), codes: away},
		{name: "gzip bomb as content coding", manifest: func(c *registry.Call) {
			c.Send(200, bomb.Bytes(), "Content-Type", oci, "Content-Encoding", "gzip")
		}, codes: invalid},
		{name: "HTML", document: []byte("<html>sign in</html>"), codes: invalid},
		{name: "deep JSON", document: bytes.Repeat([]byte("["), 1<<20), codes: invalid},
		{name: "deep object", document: []byte(`{"layers":` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000) + "}"), codes: invalid},
		{name: "empty", manifest: func(c *registry.Call) { c.Send(200, nil) }, codes: invalid},
		{name: "no content", manifest: statusOf(204), codes: away},
		{name: "part of a manifest", manifest: func(c *registry.Call) {
			c.Send(206, honestManifest, "Content-Range", fmt.Sprintf("bytes 0-%d/*", len(honestManifest)-1))
		}, codes: away},
		{name: "cut off", manifest: func(c *registry.Call) { c.Head(200, "Content-Length", "1000"); c.Raw("{") }, codes: away},
		{name: "trailing bytes", manifest: func(c *registry.Call) {
			c.Head(200, "Content-Length", fmt.Sprint(len(honestManifest)))
			c.Raw(string(honestManifest) + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		}, codes: mounted},
		{name: "broken chunks", manifest: raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"), codes: away},
		{name: "chunk of eight exabytes", manifest: raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n{}"), codes: away},
		{name: "HTTP/1.0 without a length", manifest: raw("HTTP/1.0 200 OK\r\n\r\n" + string(honestManifest)), codes: mounted},
		{name: "no HTTP", manifest: raw("SSH-2.0-OpenSSH_9.6\r\n"), codes: away},
		{name: "unknown protocol version", manifest: raw("HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n"), codes: []string{"InvalidArgument", "Unavailable"}},
		{name: "status of words", manifest: raw("HTTP/1.1 yes OK\r\n\r\n"), codes: away},
		{name: "status 999", manifest: raw("HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n"), codes: away},
		{name: "header bomb", manifest: func(c *registry.Call) {
			c.Raw("HTTP/1.1 200 OK\r\n")
			c.Flood("X-Bomb: "+strings.Repeat("b", 1000)+"\r\n", 1<<32)
		}, codes: away},
		{name: "one endless header line", manifest: func(c *registry.Call) { c.Raw("HTTP/1.1 200 OK\r\nX-Bomb: "); c.Flood("bomb", 1<<32) }, codes: away},
		{name: "flood of 1xx", manifest: func(c *registry.Call) { c.Flood("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 1<<32) }, codes: away},
		{name: "silence", manifest: func(c *registry.Call) { c.Hang() }, codes: goesOn},
		{name: "trickling header", manifest: func(c *registry.Call) { c.Raw("HTTP/1.1 200 OK\r\nX-Slow: "); c.Trickle("x", 50*time.Millisecond) }, codes: goesOn},
		{name: "trickling manifest", manifest: func(c *registry.Call) { c.Head(200, "Content-Length", "100000"); c.Trickle(" ", 50*time.Millisecond) }, codes: goesOn},
		{name: "config of other bytes", document: bytes.Replace(honestManifest, []byte(ocispec.DescriptorEmptyJSON.Digest), []byte(other), 1), codes: lost},
		{name: "429, negative Retry-After", manifest: statusOf(429, "Retry-After", "-5"), codes: away},
		{name: "429, ten years", manifest: statusOf(429, "Retry-After", "315360000"), codes: away},
		{name: "429, more seconds than there are", manifest: statusOf(429, "Retry-After", strings.Repeat("9", 40)), codes: away},
		{name: "429, words", manifest: statusOf(429, "Retry-After", "when it suits me"), codes: away},
		{name: "503, a date in ten years", manifest: statusOf(503, "Retry-After", time.Now().AddDate(10, 0, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")), codes: away},
		{name: "words of the server", manifest: func(c *registry.Call) {
			// The answer repeats what it was sent, in every form, with escapes for a terminal.
			auth := c.Header.Get("Authorization")
			_, encoded, _ := strings.Cut(auth, " ")
			plain, _ := base64.StdEncoding.DecodeString(encoded)
			c.Send(403, fmt.Appendf(nil, "{\"errors\":[{\"code\":%q,\"message\":%q}]}", "\x1b[31m"+auth, string(plain)+" "+strings.Repeat("x", 1<<20)), "X-Echo", auth)
		}, codes: denied},
	}
}

// hostileRedirects lead from the manifest to where nobody should go.
func hostileRedirects() []*hostile {
	to := func(name, location string, codes []string) *hostile {
		return &hostile{name: "redirect to " + name, manifest: redirect(location), codes: codes}
	}
	return []*hostile{
		to("itself", "http://HOST/v2/m/x/manifests/v1", away),
		to("the metadata service", "http://169.254.169.254/from/0/latest/meta-data/", denied),
		to("the metadata service by name", "http://metadata.example.com/from/0/", denied),
		to("the metadata service over IPv6", "http://[fd00:ec2::254]/from/0/", denied),
		to("the metadata service by an IPv6 name", "http://metadata6.example.com/from/0/", denied),
		to("the metadata service as a mapped address", "http://[::ffff:169.254.169.254]/from/0/", denied),
		to("the metadata service through NAT64", "http://[64:ff9b::a9fe:a9fe]/from/0/", denied),
		to("the metadata service as a number", "http://2852039166/from/0/", away),
		to("another cloud's metadata service", "http://100.100.100.200/from/0/", denied),
		to("the node itself", "http://"+nodeAddress+"/from/0/", denied),
		to("the node itself by name", "http://kubelet.example.com/from/0/", denied),
		to("loopback", "http://127.0.0.1/from/0/", denied),
		to("loopback by name", "http://local.example.com/from/0/", denied),
		to("localhost", "http://localhost/from/0/", denied),
		to("loopback over IPv6", "http://[::1]/from/0/", denied),
		to("the unspecified address", "http://0.0.0.0/from/0/", denied),
		to("link-local over IPv6", "http://[fe80::1%25lo]/from/0/", denied),
		to("a file", "file:///etc/shadow", denied),
		to("gopher", "gopher://HOST/", denied),
		to("a script", "javascript:alert(1)", denied),
		to("a URL with a user", "http://user:password@other.example.com/from/0/", denied),
		to("what is no URL", "http://%zz/", noLocation),
		to("nowhere", "", away),
		to("a very long URL", "http://HOST/"+strings.Repeat("a", 100<<10), away),
		{name: "redirect back and forth", manifest: redirect("http://other.example.com/from/NUMBER/pong"), elsewhere: redirect("http://other.example.com/from/NUMBER/ping"), codes: away},
		{name: "redirect to another origin that has it", manifest: redirect("http://other.example.com/from/NUMBER/manifest"), codes: mounted},
		{name: "redirect away and back", manifest: redirect("http://other.example.com/from/NUMBER/back"),
			elsewhere: redirect("http://hNUMBER.example.com/v2/m/x/manifests/v1"), codes: []string{"Unauthenticated", "Unavailable"}},
		{name: "redirect out of TLS", secure: true, manifest: redirect("http://HOST/v2/m/x/manifests/v1"), codes: denied},
		{name: "redirect out of TLS to another origin", secure: true, manifest: redirect("http://other.example.com/from/NUMBER/manifest"), codes: denied},
	}
}

// hostileChallenges ask for the credential in ways that must not get it.
func hostileChallenges() []*hostile {
	realm := func(name, realm string, codes []string) *hostile {
		return &hostile{name: "realm is " + name, challenge: []string{`Bearer realm="` + realm + `",service="s"`}, codes: codes}
	}
	const good = `Bearer realm="http://hNUMBER.example.com/token",service="s"`
	token := func(name string, codes []string, answer func(*registry.Call)) *hostile {
		return &hostile{name: "token service: " + name, challenge: []string{good}, token: answer, codes: codes}
	}
	elsewhere := func(scheme string) func(*registry.Call) {
		return func(c *registry.Call) {
			if c.Host == "other.example.com" {
				c.Send(200, []byte(`{"access_token":"t"}`))
				return
			}
			c.Send(307, nil, "Location", scheme+"://other.example.com/from/NUMBER/token")
		}
	}
	post, postTLS := elsewhere("http"), elsewhere("https")
	return []*hostile{
		{name: "401 whatever comes", first: func(c *registry.Call) bool { c.Send(401, nil, "WWW-Authenticate", `Basic realm="r"`); return true }, codes: unknown},
		{name: "401 without a challenge", first: func(c *registry.Call) bool { c.Send(401, nil); return true }, codes: unknown},
		{name: "a scheme nobody knows", challenge: []string{"Negotiate", "NTLM", "X"}, codes: unknown},
		{name: "a huge challenge", challenge: []string{`Bearer realm="` + strings.Repeat("r", 50<<10) + `"`}, codes: noService},
		{name: "a challenge beyond the header limit", challenge: []string{`Bearer realm="` + strings.Repeat("r", 200<<10) + `"`}, codes: away},
		{name: "a thousand challenges", challenge: slices.Repeat([]string{`Bearer realm="http://169.254.169.254/"`}, 1000), codes: denied},
		{name: "an open quote", challenge: []string{`Bearer realm="http://other.example.com/from/NUMBER/token`}, codes: noService},
		{name: "a folded challenge", challenge: []string{"Bearer realm=\"http://\r\n other.example.com/from/NUMBER/token\""}, codes: noService},
		{name: "a challenge with quotes and commas", challenge: []string{`Bearer realm="\"http://other.example.com/\",realm=http://other.example.com/",,,=,"=`}, codes: noService},
		{name: "a challenge of control bytes", challenge: []string{"Bearer realm=\"\x01\x02\x7f\xff\""}, codes: noService},
		realm("the metadata service", "http://169.254.169.254/from/NUMBER/token", denied),
		realm("the metadata service by name", "http://metadata.example.com/from/NUMBER/token", denied),
		realm("loopback", "http://127.0.0.1/from/NUMBER/token", denied),
		realm("the node itself", "https://kubelet.example.com/from/NUMBER/token", denied),
		realm("loopback in TLS", "https://local.example.com/from/NUMBER/token", denied),
		realm("another host in plain HTTP", "http://tokens.example.com/from/NUMBER/token", denied),
		realm("a file", "file:///etc/shadow", noService),
		realm("relative", "/token", noService),
		realm("empty", "", noService),
		realm("a URL with a user", "http://a:b@hNUMBER.example.com/token", denied),
		{name: "realm out of TLS", secure: true, challenge: []string{`Bearer realm="http://hNUMBER.example.com/token"`}, codes: noService},
		{name: "realm out of TLS on another host", secure: true, challenge: []string{`Bearer realm="http://tokens.example.com/from/NUMBER/token"`}, codes: noService},
		{name: "realm on another host in TLS", secure: true, challenge: []string{`Bearer realm="https://tokens.example.com/from/NUMBER/token"`}, owners: []string{tokenAddress}, codes: mounted},
		token("HTML", noToken, func(c *registry.Call) { c.Send(200, []byte("<html>welcome</html>"), "Content-Type", "text/html") }),
		token("ten megabytes", noToken, func(c *registry.Call) { c.Send(200, []byte(`{"token":"`+strings.Repeat("t", 10<<20)+`"}`)) }),
		token("endless", noToken, func(c *registry.Call) {
			c.Head(200, "Content-Type", "application/json")
			c.Raw(`{"token":"`)
			c.Flood("t", 1<<40)
		}),
		token("deep JSON", noToken, func(c *registry.Call) { c.Send(200, []byte(strings.Repeat(`{"token":`, 10_000))) }),
		token("no token", noToken, func(c *registry.Call) { c.Send(200, []byte(`{}`)) }),
		token("a number for a token", noToken, func(c *registry.Call) { c.Send(200, []byte(`{"token":7}`)) }),
		token("a token with a line end", noToken, func(c *registry.Call) { c.Send(200, []byte(`{"token":"a\r\nX-Injected: yes"}`)) }),
		token("a token of 60 KiB", []string{"Unauthenticated", "Unavailable", "Aborted", ""}, func(c *registry.Call) { c.Send(200, []byte(`{"token":"`+strings.Repeat("t", 60<<10)+`"}`)) }),
		token("silence", goesOn, func(c *registry.Call) { c.Hang() }),
		token("refuses, with the secret in its words", unknown, func(c *registry.Call) {
			_, password, _ := c.BasicAuth()
			c.Send(401, fmt.Appendf(nil, `{"details":"wrong password %s"}`, password))
		}),
		token("500", away, statusOf(500)),
		token("429 for ten years", away, statusOf(429, "Retry-After", "315360000")),
		token("redirect to another host", denied, post),
		{name: "token service: redirect to another host in TLS", secure: true, challenge: []string{`Bearer realm="https://hNUMBER.example.com/token"`},
			token: postTLS, codes: mounted},
		token("redirect to the metadata service", denied, redirect("http://169.254.169.254/from/0/token")),
		token("redirect to a file", noService, redirect("file:///etc/shadow")),
		token("redirects in a circle", []string{"PermissionDenied", "Unavailable"}, redirect("http://HOST/token")),
		{name: "token service: redirect of an identity token", refresh: true, challenge: []string{good}, token: post, codes: noService},
		{name: "token service: redirect of an identity token in TLS", secure: true, refresh: true,
			challenge: []string{`Bearer realm="https://hNUMBER.example.com/token",service="s"`}, token: postTLS, codes: noService},
	}
}

// hostileBlobs are wrong answers to the question for a blob.
func hostileBlobs() []*hostile {
	size := len(hostileContent)
	blob := func(name string, codes []string, answer func(*registry.Call)) *hostile {
		return &hostile{name: "blob: " + name, blob: answer, codes: codes}
	}
	asked := func(c *registry.Call) (from, to int) {
		if n, _ := fmt.Sscanf(c.Header.Get("Range"), "bytes=%d-%d", &from, &to); n < 2 {
			return 0, size - 1
		}
		return from, to
	}
	part := func(c *registry.Call, contentRange string, body []byte) {
		c.Send(206, body, "Content-Range", contentRange)
	}
	later := []string{"Aborted", "Unavailable"}
	return []*hostile{
		blob("other bytes in each range", lost, func(c *registry.Call) {
			from, to := asked(c)
			part(c, fmt.Sprintf("bytes %d-%d/%d", from, to, size), []byte(strings.Repeat(string(rune('a'+from%26)), to-from+1)))
		}),
		blob("another range", later, func(c *registry.Call) {
			part(c, fmt.Sprintf("bytes 7-%d/%d", size-1, size), hostileContent[7:])
		}),
		blob("another size", lost, func(c *registry.Call) {
			from, to := asked(c)
			part(c, fmt.Sprintf("bytes %d-%d/%d", from, to, size+1), hostileContent[from:to+1])
		}),
		blob("a range without its place", later, func(c *registry.Call) { c.Send(206, hostileContent) }),
		blob("a range of words", later, func(c *registry.Call) { part(c, "bytes all-of/it", hostileContent) }),
		blob("a range that overflows", later, func(c *registry.Call) { part(c, "bytes 0-99999999999999999999/*", hostileContent) }),
		blob("more bytes than the range", later, func(c *registry.Call) {
			from, to := asked(c)
			part(c, fmt.Sprintf("bytes %d-%d/%d", from, to, size), append(hostileContent[from:to+1:to+1], "more"...))
		}),
		blob("416", []string{"Aborted", "Unavailable", "InvalidArgument"}, statusOf(416)),
		blob("416 of a smaller blob", lost, statusOf(416, "Content-Range", "bytes */10")),
		blob("another length", lost, func(c *registry.Call) { c.Send(200, append(hostileContent[:size:size], '!')) }),
		blob("no length, and more to come", lost, func(c *registry.Call) {
			c.Head(200, "Connection", "close")
			c.Raw(string(hostileContent))
			c.Flood("more", 1<<32)
		}),
		blob("chunks without end", append(later, "DataLoss"), func(c *registry.Call) {
			c.Head(200, "Transfer-Encoding", "chunked")
			c.Flood("4\r\nevil\r\n", 1<<34)
		}),
		blob("compressed on the way", append(later, "DataLoss"), func(c *registry.Call) {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = z.Write(hostileContent)
			_ = z.Close()
			c.Send(200, b.Bytes(), "Content-Encoding", "gzip")
		}),
		blob("closes at once", later, func(c *registry.Call) { c.Raw("") }),
		blob("closes in the header", later, raw("HTTP/1.1 206 Pa")),
		blob("less than announced", later, func(c *registry.Call) { c.Head(200, "Content-Length", fmt.Sprint(size)); c.Raw("little") }),
		blob("trickles", later, func(c *registry.Call) {
			c.Head(200, "Content-Length", fmt.Sprint(size))
			c.Trickle("w", 20*time.Millisecond)
		}),
		blob("header bomb", later, func(c *registry.Call) {
			c.Raw("HTTP/1.1 206 OK\r\n")
			c.Flood("X: "+strings.Repeat("b", 1000)+"\r\n", 1<<32)
		}),
		blob("401 whatever comes", append(unknown, "Aborted"), func(c *registry.Call) { c.Send(401, nil, "WWW-Authenticate", `Basic realm="r"`) }),
		blob("404", missing, statusOf(404)),
		blob("429 for ten years", later, statusOf(429, "Retry-After", "315360000")),
		blob("redirect to the metadata service", denied, redirect("http://metadata.example.com/from/NUMBER/blob")),
		blob("redirect to the node itself", denied, redirect("http://kubelet.example.com/from/NUMBER/blob")),
		blob("redirect to loopback", denied, redirect("http://127.0.0.1/from/NUMBER/blob")),
		blob("redirect with a user", denied, redirect("http://u:p@other.example.com/from/NUMBER/blob")),
		blob("redirect to another origin", mounted, redirect("http://other.example.com/from/NUMBER/blob?signature=s")),
		blob("redirect in a circle", later, redirect("http://HOST/v2/m/x/blobs/y")),
		{name: "blob: storage that refuses", blob: redirect("http://other.example.com/from/NUMBER/blob"), elsewhere: statusOf(403), codes: later},
		{name: "blob: storage that asks for the credential", blob: redirect("http://other.example.com/from/NUMBER/blob"),
			elsewhere: func(c *registry.Call) { c.Send(401, nil, "WWW-Authenticate", `Basic realm="give it to me"`) }, codes: later},
	}
}

// TestThreatHostileRegistry asks each of these registries for a model, all of them at once.
func TestThreatHostileRegistry(t *testing.T) {
	t.Parallel()
	cases := slices.Concat(hostileManifests(), hostileRedirects(), hostileChallenges(), hostileBlobs())
	number(cases)
	honest := len(cases)
	cases = append(cases, &hostile{name: "honest"})
	w, stage := hostileWorld(t, cases)

	began := time.Now()
	var group sync.WaitGroup
	room := make(chan struct{}, 16)
	for i, h := range cases[:honest] {
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			// Whoever never finishes is not waited for; the others have the time that a slow machine takes for all of them.
			patience := time.Minute
			if slices.Contains(h.codes, "Aborted") {
				patience = 6 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			err := w.node.Publish(ctx, h.request(i))
			judge(t, w, i, h, err)
			if took := time.Since(began); took > patience+30*time.Second {
				t.Errorf("%s: the answer took %s", h.name, took)
			}
		})
	}
	group.Wait()
	t.Logf("%d hostile registries in %s", honest, time.Since(began).Round(time.Millisecond))

	// Whatever still runs, an honest registry serves.
	if err := w.publish(cases[honest].request(honest)); err != nil {
		t.Errorf("an honest registry beside the hostile ones: %v", err)
	}
	shows(t, w.node.Target(fmt.Sprintf("csi-hostile-%d", honest)), hostileModel)
	w.mustUnpublish(fmt.Sprintf("csi-hostile-%d", honest))
	for i, h := range cases[:honest] {
		if len(h.codes) == 0 || slices.Contains(h.codes, "") {
			if err := w.node.Unpublish(t.Context(), fmt.Sprintf("csi-hostile-%d", i)); err != nil {
				t.Error(err)
			}
		}
	}
	checkVisits(t, cases, stage.Visits())
	if log := w.node.Log(); strings.Contains(log, hostilePassword) {
		t.Error("the log shows the password")
	}
	if peak, err := w.node.PeakRSS(); err != nil || peak > 1<<30 {
		t.Errorf("the daemon had %d MiB resident (%v)", peak>>20, err)
	} else {
		t.Logf("peak RSS %d MiB", peak>>20)
	}
	w.blobs()
	views, err := os.ReadDir(filepath.Join(w.node.Root(), "views"))
	if err != nil || len(views) > 1 {
		t.Errorf("there are views of models that nobody delivered: %v, %v", views, err)
	}
}

// number puts a case's own number into what it says.
func number(cases []*hostile) {
	for i, h := range cases {
		for k := range h.challenge {
			h.challenge[k] = strings.ReplaceAll(h.challenge[k], "NUMBER", fmt.Sprint(i))
		}
		for _, f := range []*func(*registry.Call){&h.manifest, &h.blob, &h.token, &h.elsewhere} {
			if inner := *f; inner != nil {
				*f = func(c *registry.Call) { c.Replace("NUMBER", fmt.Sprint(i)); inner(c) }
			}
		}
	}
}

func judge(t *testing.T, w *world, i int, h *hostile, err error) {
	name := h.name
	got := status.Code(err).String()
	if err == nil {
		got = ""
	}
	wanted := h.codes
	if len(wanted) == 0 {
		wanted = []string{""}
	}
	if slices.Contains(wanted, "Unavailable") {
		wanted = append(slices.Clone(wanted), "Aborted") // on a slow machine the patience ends before the last try
	}
	if got == "DeadlineExceeded" && slices.Contains(wanted, "Aborted") { // or before the answer
		own := *w
		own.t = t
		own.nothingSoon(fmt.Sprintf("csi-hostile-%d", i))
		return
	}
	if !slices.Contains(wanted, got) {
		t.Errorf("%s: code %q, want one of %q: %v", name, got, wanted, err)
	}
	id := fmt.Sprintf("csi-hostile-%d", i)
	if err == nil {
		shows(t, w.node.Target(id), hostileModel)
		return
	}
	text := err.Error()
	if !strings.Contains(text, fmt.Sprintf("h%d.example.com/m/x", i)) {
		t.Errorf("%s: the message does not name the reference: %v", name, err)
	}
	for _, word := range h.words {
		if !strings.Contains(text, word) {
			t.Errorf("%s: the message does not say %q: %v", name, word, err)
		}
	}
	if strings.Contains(text, hostilePassword) || strings.ContainsAny(text, "\x1b\x00\r\n") || len(text) > 1200 {
		t.Errorf("%s: the message is not fit for an event: %q", name, text)
	}
	if got == "Internal" || got == "Unknown" {
		t.Errorf("%s: no kind: %v", name, err)
	}
	own := *w
	own.t = t
	own.nothingOf(id)
}

// checkVisits looks for the credential where it does not belong, and for requests to where nobody may be sent.
func checkVisits(t *testing.T, cases []*hostile, visits []registry.Visit) {
	t.Helper()
	encoded := base64.StdEncoding.EncodeToString([]byte("puller:" + hostilePassword))
	for _, v := range visits {
		if slices.Contains(forbiddenAddresses, v.Address) {
			t.Errorf("%s %s was sent to %s", v.Method, v.Path, v.Address)
		}
		if v.Header.Get("X-Injected") != "" {
			t.Errorf("a header was injected into %s %s", v.Method, v.Path)
		}
		if v.Header.Get("Cookie") != "" {
			t.Errorf("%s %s tells more than it needs: %v", v.Method, v.Path, v.Header)
		}
		var all strings.Builder
		_ = v.Header.Write(&all)
		all.WriteString(v.Path + v.Body)
		bearer := strings.Contains(all.String(), "issued-token")
		if !bearer && !strings.Contains(all.String(), hostilePassword) && !strings.Contains(all.String(), encoded) {
			continue
		}
		if v.Address == registryAddress {
			continue
		}
		var i int
		_, _ = fmt.Sscanf(v.Path, "/from/%d/", &i)
		if !slices.Contains(cases[i].owners, v.Address) || !v.TLS || bearer {
			t.Errorf("%s: the credential went to %s (%s): %s %s", cases[i].name, v.Host, v.Address, v.Method, v.Path)
		}
	}
}

// TestThreatReferences has the author of a pod name hosts that nobody should be led to, in every scheme.
func TestThreatReferences(t *testing.T) {
	t.Parallel()
	w, stage := hostileWorld(t, []*hostile{{name: "honest"}})
	var references []string
	for _, host := range []string{
		"169.254.169.254", "169.254.169.254:80", "metadata.example.com", "metadata.example.com:80", "metadata6.example.com", "[fd00:ec2::254]", "[::ffff:169.254.169.254]",
		"[64:ff9b::a9fe:a9fe]", "100.100.100.200", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "local.example.com", "local.example.com:80",
	} {
		for _, form := range []string{"%s/m/x:v1", "oci://%s/m/x:v1", "ollama://%s/m/x:v1", "model-registry://%s/name/version", "hf://%s/x"} {
			references = append(references, fmt.Sprintf(form, host))
		}
	}
	var group sync.WaitGroup
	for i, reference := range references {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			v := volume(fmt.Sprintf("csi-named-%d", i), reference)
			v.Secrets = map[string]string{"username": "puller", "password": hostilePassword}
			err := w.node.Publish(ctx, v)
			if code := status.Code(err).String(); !slices.Contains([]string{"PermissionDenied", "InvalidArgument", "Unavailable", "Aborted", "DeadlineExceeded"}, code) {
				t.Errorf("%s: %v", reference, err)
			}
			if err != nil && strings.Contains(err.Error(), hostilePassword) {
				t.Errorf("%s: the password shows: %v", reference, err)
			}
			own := *w
			own.t = t
			own.nothingSoon(v.ID)
		})
	}
	group.Wait()
	for _, v := range stage.Visits() {
		t.Errorf("%s %s was asked of %s as %s", v.Method, v.Path, v.Address, v.Host)
	}
}
