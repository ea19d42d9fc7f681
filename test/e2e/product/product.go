// Package product puts the product on the end-to-end cluster as a user would: its image, its chart, and registries for
// it to pull from.
package product

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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

// Product is the product on a cluster, with a public registry and one that asks for a password.
type Product struct {
	*cluster.Cluster
	Public, Private *registry.Registry
	// Trust has the authority of both registries.
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
	if err := p.TrustRegistry(p.Public.Address); err != nil {
		return err
	}
	for _, tag := range []string{"v1", "v2"} {
		if p.ImageSize, err = p.LoadImage(ctx, Image(tag)); err != nil {
			return fmt.Errorf("load the product's image: %w", err)
		}
	}
	return p.Install(ctx, "v1")
}

// TearDown ends everything that SetUp started.
func (p *Product) TearDown() error {
	var err error
	for _, r := range []*registry.Registry{p.Public, p.Private} {
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
	fmt.Fprintf(&text, "image: {repository: %s, tag: %s, pullPolicy: Never}\nlog: {level: debug}\nregistries:\n", ImageRepository, tag)
	ca := strings.ReplaceAll(strings.TrimSpace(string(p.CA.PEM)), "\n", "\n      ")
	for _, r := range []*registry.Registry{p.Public, p.Private} {
		fmt.Fprintf(&text, "  %q:\n    ca: |\n      %s\n", r.Address, ca)
	}
	// The registry that the README's pod names is the public one, so that the pod runs here as it stands there.
	fmt.Fprintf(&text, "  registry.example.com:\n    server: https://%s\n    ca: |\n      %s\n", p.Public.Address, ca)
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
