// Package product puts the product on the end-to-end cluster as a user would: its image, its chart, and registries for
// it to pull from.
package product

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/model-csi/model-csi/test/e2e/cluster"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

// Paths are relative to test/e2e, where its programs and tests run.
const (
	RepositoryRoot = "../.."
	ChartPath      = RepositoryRoot + "/charts/model-csi"
)

// Names in the cluster.
const (
	DriverName      = "model.csi.cnai.io"
	ReleaseName     = "model-csi"
	Namespace       = "model-csi"
	ImageRepository = "model-csi.test/model-csi"
)

// What the release's values say of tenants.
const (
	// PullSecretsNamespace is the only namespace whose pods' image pull secrets are used for their models.
	PullSecretsNamespace = "with-pull-secrets"
	// RestrictedNamespace is the only one with a rule of its own, which denies DeniedPattern.
	RestrictedNamespace = "restricted"
	DeniedPattern       = "**/experimental/**"
)

// MirroredHost is the host of a registry that does not exist by this name: Mirror is asked for it first, then Public.
const MirroredHost = "mirrored.example.com"

// mirrorHeader is how mirrors such as Dragonfly's are told whom they stand for.
const mirrorHeader = "X-Dragonfly-Registry"

// Product is the product on a cluster, with a public registry, one that asks for a password, and a mirror.
type Product struct {
	*cluster.Cluster
	Public, Private, Mirror *registry.Registry
	// Trust has the authority of all registries.
	Trust *x509.CertPool
	// ImageSize is the size of the image's archive in bytes.
	ImageSize int64
}

// Build makes the product's binary as the project's Makefile does.
func Build(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "make", "build")
	cmd.Dir = RepositoryRoot
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the product: %w", err)
	}
	return nil
}

// SetUp starts the cluster and the registries and installs the product with the tag v1; v2 is the same under another
// name. Whoever calls it calls TearDown, also after an error.
func (p *Product) SetUp(ctx context.Context) error {
	if err := p.Start(ctx); err != nil {
		return err
	}
	tls, err := p.CA.ServerTLS(cluster.NodeIP)
	if err != nil {
		return err
	}
	p.Trust = x509.NewCertPool()
	p.Trust.AppendCertsFromPEM(p.CA.PEM)
	p.Public, err = registry.Start(registry.Options{Address: cluster.NodeIP + ":5000", TLS: tls, Dir: p.Dir("public")})
	if err != nil {
		return err
	}
	p.Private, err = registry.Start(registry.Options{
		Address: cluster.NodeIP + ":5001", TLS: tls, Dir: p.Dir("private"), User: "reader", Password: "correct-horse",
	})
	if err != nil {
		return err
	}
	p.Mirror, err = registry.Start(registry.Options{
		Address: cluster.NodeIP + ":5002", TLS: tls, Dir: p.Dir("mirror"),
		Want: http.Header{mirrorHeader: {"https://" + MirroredHost}},
	})
	if err != nil {
		return err
	}
	if err := p.TrustRegistry(p.Public.Address); err != nil {
		return err
	}
	for _, tag := range []string{"v1", "v2"} {
		if p.ImageSize, err = p.LoadImage(ctx, Image(tag)); err != nil {
			return fmt.Errorf("load the product's image: %w", err)
		}
	}
	// The chart puts a Role into the namespace, which is the operator's to make.
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: PullSecretsNamespace}}
	if _, err := p.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make a namespace: %w", err)
	}
	return p.Install(ctx, "v1")
}

// TearDown ends everything that SetUp started.
func (p *Product) TearDown() error {
	var err error
	for _, r := range []*registry.Registry{p.Public, p.Private, p.Mirror} {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
	}
	return errors.Join(err, p.Stop())
}

// Image is the image that the Dockerfile describes.
func Image(tag string) cluster.Image {
	return cluster.Image{
		Name: ImageRepository + ":" + tag, User: "0:0", Entrypoint: []string{"/usr/local/bin/model-csi"}, Cmd: []string{"node"},
		Files: []cluster.ImageFile{
			{Path: "/usr/local/bin/model-csi", Source: RepositoryRoot + "/bin/model-csi"},
			{Path: "/etc/ssl/certs/ca-certificates.crt", Source: "/etc/ssl/certs/ca-certificates.crt", Mode: 0o644},
		},
	}
}

// Install installs or upgrades the product with its own chart, and returns when it is ready.
func (p *Product) Install(ctx context.Context, tag string) error {
	values := p.Dir("values.yaml")
	var text strings.Builder
	fmt.Fprintf(&text, "image: {repository: %s, tag: %s, pullPolicy: Never}\nlog: {level: debug}\n", ImageRepository, tag)
	fmt.Fprintf(&text, "podPullSecrets: {namespaces: [%s]}\n", PullSecretsNamespace)
	fmt.Fprintf(&text, "policy: {namespaces: {%s: {deny: [%q]}}}\nregistries:\n", RestrictedNamespace, DeniedPattern)
	ca := strings.ReplaceAll(strings.TrimSpace(string(p.CA.PEM)), "\n", "\n      ")
	for _, r := range []*registry.Registry{p.Public, p.Private} {
		fmt.Fprintf(&text, "  %q:\n    ca: |\n      %s\n", r.Address, ca)
	}
	// The registry that the README's pod names is the public one, so that the pod runs here as it stands there.
	fmt.Fprintf(&text, "  registry.example.com:\n    server: https://%s\n    ca: |\n      %s\n", p.Public.Address, ca)
	fmt.Fprintf(&text, "  %s:\n    server: https://%s\n    ca: |\n      %s\n", MirroredHost, p.Public.Address, ca)
	fmt.Fprintf(&text, "    mirrors:\n      - url: https://%s\n        headers: {%s: \"https://%s\"}\n        ca: |\n          %s\n",
		p.Mirror.Address, mirrorHeader, MirroredHost, strings.ReplaceAll(ca, "\n", "\n    "))
	if err := os.WriteFile(values, []byte(text.String()), 0o600); err != nil {
		return err
	}
	_, err := p.Helm(ctx, "upgrade", "--install", ReleaseName, ChartPath, "--create-namespace", "--values", values,
		"--wait", "--timeout", "90s")
	return err
}

// Helm runs Helm's command line in the release's namespace and returns what it printed.
func (p *Product) Helm(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.HelmPath(), append(args, "--namespace", Namespace)...)
	home := p.Dir("helm")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.Kubeconfig(),
		"HELM_CACHE_HOME="+filepath.Join(home, "cache"), "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("helm %s: %w: %s%s", args[0], err, out, stderr.String())
	}
	return string(out), nil
}
