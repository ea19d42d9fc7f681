package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// The addresses of the internet that the hostile servers live in (RFC 5737), and those that no server may lead to.
const (
	registryAddress = "198.51.100.10"
	tokenAddress    = "198.51.100.11"
	otherAddress    = "198.51.100.12"
	// nodeAddress is an address of the node itself, behind which its own services are.
	nodeAddress = "198.51.100.13"
)

var forbiddenAddresses = []string{"169.254.169.254", "fd00:ec2::254", "100.100.100.200", "127.0.0.1", "::1", "fe80::1", nodeAddress}

const hostilePassword = "canary-hostile-password"

// hostile is a registry that does something wrong, and what must come of it. What is nil is answered as it should be.
type hostile struct {
	name string
	// secure speaks TLS.
	secure bool
	// first is asked before anything else; it reports whether it has answered.
	first func(c *registry.Call) bool
	// challenge is what the registry asks for without a credential; default Basic.
	challenge []string
	manifest  func(c *registry.Call)
	blob      func(c *registry.Call)
	token     func(c *registry.Call)
	elsewhere func(c *registry.Call)
	// document is the manifest, default the honest one; reference what the pod names behind the repository, default :v1.
	document  []byte
	reference string
	// codes are the answers that are right; none means that the model is mounted.
	codes []string
	words []string
	// owners are the addresses besides the registry's that its challenge names, and that may see the credential.
	owners []string
	// refresh gives the pod an identity token instead of a password.
	refresh bool
}

// The model that honest answers have.
var (
	hostileContent = []byte(strings.Repeat("weights of a model that was never trained ", 5000))
	hostileDigest  = digest.FromBytes(hostileContent)
	honestManifest = manifestFor(hostileDigest, int64(len(hostileContent)))
	honestDigest   = digest.FromBytes(honestManifest)
)

func manifestFor(d digest.Digest, size int64) []byte {
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.cncf.model.manifest.v1+json", Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{{
			MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: d, Size: size,
			Annotations: map[string]string{"org.cncf.model.filepath": "weights.bin"},
		}},
	})
	if err != nil {
		panic(err) // plain data
	}
	return b
}

func (h *hostile) body() []byte {
	if h.document != nil {
		return h.document
	}
	return honestManifest
}

var hostileHost = regexp.MustCompile(`^h(\d+)\.example\.com$`)

// play finds the case by the host's name, or by the path with which a case leads to other hosts.
func play(cases []*hostile) func(*registry.Call) {
	return func(c *registry.Call) {
		var number int
		if m := hostileHost.FindStringSubmatch(c.Host); m != nil {
			_, _ = fmt.Sscan(m[1], &number)
		} else if n, _ := fmt.Sscanf(c.URL.Path, "/from/%d/", &number); n == 0 {
			c.Send(404, nil)
			return
		}
		if number < 0 || number >= len(cases) {
			c.Send(404, nil)
			return
		}
		cases[number].answer(c)
	}
}

func (h *hostile) answer(c *registry.Call) {
	part, ours := strings.CutPrefix(c.URL.Path, "/v2/m/x/")
	switch {
	case strings.HasSuffix(c.URL.Path, "/token"):
		or(h.token, func(c *registry.Call) { c.Send(200, []byte(`{"token":"issued-token"}`)) })(c)
	case !ours:
		or(h.elsewhere, h.honest)(c)
	case h.first != nil && h.first(c):
	case c.Header.Get("Authorization") == "":
		h.challenged(c)
	case strings.HasPrefix(part, "manifests/"):
		or(h.manifest, h.honest)(c)
	case strings.HasPrefix(part, "blobs/"):
		or(h.blob, h.honest)(c)
	default:
		c.Send(404, nil)
	}
}

func or(f, otherwise func(*registry.Call)) func(*registry.Call) {
	if f == nil {
		return otherwise
	}
	return f
}

func (h *hostile) challenged(c *registry.Call) {
	challenges := h.challenge
	if challenges == nil {
		challenges = []string{`Basic realm="r"`}
	}
	var header []string
	for _, x := range challenges {
		header = append(header, "WWW-Authenticate", x)
	}
	c.Send(401, []byte(`{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`), header...)
}

// honest answers as a registry should.
func (h *hostile) honest(c *registry.Call) {
	if strings.Contains(c.URL.Path, "/blobs/") || strings.HasSuffix(c.URL.Path, "/blob") {
		c.SendRange(hostileContent)
		return
	}
	c.Send(200, h.body(), "Content-Type", ocispec.MediaTypeImageManifest, "Docker-Content-Digest", digest.FromBytes(h.body()).String())
}

// certificates makes an authority and a certificate for the names.
func certificates(t *testing.T, names ...string) (authority []byte, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// hostileWorld starts a node in a network of hostile servers.
func hostileWorld(t *testing.T, cases []*hostile) (*world, *registry.Stage) {
	t.Helper()
	names := []string{
		tokenAddress + " tokens.example.com", otherAddress + " other.example.com",
		"169.254.169.254 metadata.example.com", "127.0.0.1 local.example.com", nodeAddress + " kubelet.example.com", "fd00:ec2::254 metadata6.example.com",
	}
	// The same names each time: tests that run beside each other share the file.
	const most = 250
	if len(cases) > most {
		t.Fatalf("%d cases need more than %d names", len(cases), most)
	}
	for i := range most {
		names = append(names, fmt.Sprintf("%s h%d.example.com", registryAddress, i))
	}
	net := newNetwork(t, []string{registryAddress + "/32", tokenAddress + "/32", otherAddress + "/32", nodeAddress + "/32",
		"169.254.169.254/32", "100.100.100.200/32", "fd00:ec2::254/128"}, names)

	authority, config := certificates(t, "*.example.com")
	stage := registry.NewStage(play(cases))
	t.Cleanup(func() { _ = stage.Close() })
	net.do(func() {
		for _, port := range []string{"80", "443"} {
			var c *tls.Config
			if port == "443" {
				c = config
			}
			if _, err := stage.Listen(":"+port, c); err != nil {
				t.Error(err)
			}
		}
	})
	w := &world{t: t}
	var err error
	if w.dir, err = os.MkdirTemp("", "it-"); err != nil { //nolint:usetesting // paths of sockets are short
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.dir) })
	hosts := filepath.Join(w.dir, "hosts")
	for i, h := range cases {
		text := fmt.Sprintf("server = \"http://h%d.example.com\"\n", i)
		if h.secure {
			text = fmt.Sprintf("server = \"https://h%d.example.com\"\nca = %q\n", i, filepath.Join(hosts, "ca.pem"))
		}
		dir := filepath.Join(hosts, fmt.Sprintf("h%d.example.com", i))
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(hosts, "ca.pem"), authority, 0o600); err != nil {
		t.Fatal(err)
	}
	w.options = node.Options{Binary: binary, Dir: w.dir, Env: []string{"GORACE=halt_on_error=1 atexit_sleep_ms=0"},
		// All these addresses are the node's own here; two of them play hosts of the internet.
		Args: []string{"--blocked-addresses", "default,!" + tokenAddress + ",!" + otherAddress, "--log-level", "debug", "--pull-linger", "1s", "--registry-config-dir", hosts,
			// What plays the internet is on the machine itself here.
			"--blocked-addresses", "default,!" + tokenAddress + ",!" + otherAddress}}
	if w.registry, err = registry.Start(registry.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	net.start(w)
	return w, stage
}

// request is the volume of a case.
func (h *hostile) request(number int) node.Volume {
	reference := h.reference
	if reference == "" {
		reference = ":v1"
	}
	v := volume(fmt.Sprintf("csi-hostile-%d", number), fmt.Sprintf("h%d.example.com/m/x%s", number, reference))
	v.Secrets = map[string]string{"username": "puller", "password": hostilePassword}
	if h.refresh {
		v.Secrets = map[string]string{".dockerconfigjson": fmt.Sprintf(`{"auths":{"h%d.example.com":{"identitytoken":%q}}}`, number, hostilePassword)}
	}
	return v
}

var hostileModel = []artifact.File{artifact.Text("weights.bin", string(hostileContent))}
