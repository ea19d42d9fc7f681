package cluster

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a one-node Kubernetes in the sandbox that the process runs in. Methods are for one goroutine at a time,
// except those that only read.
type Cluster struct {
	run, bin string
	listener net.Listener // the host's way in; nil when nobody asked
	control  []*exec.Cmd
	node     *machine

	// CA is the authority of every server certificate in the sandbox.
	CA *CA
	// Config and Client are valid after Start.
	Config *rest.Config
	Client kubernetes.Interface
}

// Start brings up the control plane and the node, and returns when the node is Ready and can run pods.
func (c *Cluster) Start(ctx context.Context) error {
	for _, d := range []string{"etc/cni", "etc/certs.d", "logs", "disk"} {
		if err := os.MkdirAll(filepath.Join(c.run, d), 0o755); err != nil {
			return err
		}
	}
	if err := c.writeConfig(); err != nil {
		return err
	}
	node := make(chan error, 1)
	go func() { node <- c.bootNode(ctx) }()
	err := c.startControlPlane(ctx)
	if err := errors.Join(err, <-node); err != nil {
		return err
	}
	if c.listener != nil {
		go forward(c.listener)
	}
	if err := c.startKubelet(); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

// Stop ends everything at once. What it cannot remove from inside the sandbox, the outer process does.
func (c *Cluster) Stop() error {
	var err error
	if c.node != nil {
		err = c.node.powerCut()
	}
	for _, cmd := range c.control {
		_ = cmd.Process.Kill() // fails only for those that have ended
		_ = cmd.Wait()
	}
	c.control = nil
	return err
}

// writeConfig makes keys, tokens and the configuration of every component.
func (c *Cluster) writeConfig() (err error) {
	etc := filepath.Join(c.run, "etc")
	if c.CA, err = NewCA(clusterName); err != nil {
		return err
	}
	cert, key, err := c.CA.Issue("kube-apiserver", NodeIP, serviceIP, "127.0.0.1", "localhost", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	account, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(account.Public())
	if err != nil {
		return err
	}
	admin, kubelet := token(), token()
	files := map[string][]byte{
		"ca.crt": c.CA.PEM, "apiserver.crt": cert, "apiserver.key": key,
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(account)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": fmt.Appendf(nil, "%s,admin,1,\"system:masters\"\n%s,system:node:%s,2,\"system:nodes\"\n", admin, kubelet, NodeName),
		// The same file for the sandbox and the node, so the authority has a path relative to it.
		"admin.kubeconfig":   kubeconfig(apiServerURL, "ca.crt", "admin", admin),
		"kubelet.kubeconfig": kubeconfig(apiServerURL, "ca.crt", "kubelet", kubelet),
	}
	if c.listener != nil {
		files["host.kubeconfig"] = kubeconfig("https://"+c.listener.Addr().String(), "ca.crt", "admin", admin)
	}
	for name, text := range nodeFiles() {
		files[name] = []byte(text)
	}
	paths := map[string][]byte{}
	for name, data := range files {
		paths[filepath.Join(etc, name)] = data
	}
	return writeFiles(paths)
}

func token() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// startControlPlane returns when the API server is ready.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	etc := filepath.Join(c.run, "etc")
	for _, args := range [][]string{etcdArgs(c.run), apiserverArgs(etc)} {
		if err := c.startControl(args); err != nil {
			return err
		}
	}
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig()); err != nil {
		return err
	}
	// The tests ask often; the client's own limit would make them wait.
	c.Config.QPS, c.Config.Burst = 200, 400
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	err = until(ctx, 5*time.Minute, "API server ready", func(ctx context.Context) error {
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return err
	}
	return errors.Join(c.startControl(controllerManagerArgs(etc)), c.startControl(schedulerArgs(etc)))
}

func (c *Cluster) startControl(args []string) error {
	log, err := os.Create(filepath.Join(c.run, "logs", args[0]+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.bin, "kubernetes"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = c.run
	// A terminal's interrupt is for the test; it ends the others in its own time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	c.control = append(c.control, cmd)
	return nil
}

// bootNode starts the node with its container runtime, images included.
func (c *Cluster) bootNode(ctx context.Context) (err error) {
	if c.node, err = powerOn(c.run, c.bin); err != nil {
		return err
	}
	if err := c.node.start("containerd", nodeComponents["containerd"]...); err != nil {
		return err
	}
	err = until(ctx, 3*time.Minute, "containerd answers", func(ctx context.Context) error {
		_, err := c.node.exec(ctx, nodeBin+"/ctr", "version")
		return err
	})
	if err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	for _, image := range []Image{pause(busybox), Busybox(busybox)} {
		if _, err := c.LoadImage(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startKubelet() error {
	return errors.Join(c.node.start("kubelet", nodeComponents["kubelet"]...), c.node.start("kube-proxy", nodeComponents["kube-proxy"]...))
}

// WaitReady returns when the node is Ready and the default service account exists, without which no pod is admitted.
func (c *Cluster) WaitReady(ctx context.Context) error {
	return until(ctx, 5*time.Minute, "node Ready", func(ctx context.Context) error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready := fmt.Errorf("node %s has no Ready condition", NodeName)
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				ready = nil
			} else if cond.Type == corev1.NodeReady {
				ready = errors.New(cond.Message)
			}
		}
		if ready != nil {
			return ready
		}
		_, err = c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// RestartKubelet kills kubelet and starts it again.
func (c *Cluster) RestartKubelet(ctx context.Context) error {
	if err := c.node.kill("kubelet", syscall.SIGKILL); err != nil {
		return err
	}
	if err := c.node.start("kubelet", nodeComponents["kubelet"]...); err != nil {
		return err
	}
	return until(ctx, 3*time.Minute, "kubelet serves", func(ctx context.Context) error {
		return c.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + NodeName + "/proxy/healthz").Do(ctx).Error()
	})
}

// PowerCut ends every process of the node at once; its mounts go with them, and its cgroups too, since no kernel has
// them after a reboot. The control plane goes on.
func (c *Cluster) PowerCut() error {
	if err := c.node.powerCut(); err != nil {
		return err
	}
	return removeCgroups(cgroupName(c.run))
}

// Boot starts the node after a PowerCut, with its disk as it was and nothing else.
func (c *Cluster) Boot(ctx context.Context) error {
	if err := c.bootNode(ctx); err != nil {
		return err
	}
	if err := c.startKubelet(); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

// Kubeconfig is the path of a file with which clients in the sandbox are administrators.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.run, "etc", "admin.kubeconfig") }

// HostKubeconfig is the same for clients of the host, when Options.Listen was given.
func (c *Cluster) HostKubeconfig() string { return filepath.Join(c.run, "etc", "host.kubeconfig") }

// Dir is a directory of the run for the caller's files; it is removed with the cluster.
func (c *Cluster) Dir(name string) string { return filepath.Join(c.run, name) }

// Logs is the directory of the components' logs.
func (c *Cluster) Logs() string { return filepath.Join(c.run, "logs") }

// HelmPath is the path of Helm's binary.
func (c *Cluster) HelmPath() string { return filepath.Join(c.bin, "helm") }

// NodePath is a path of the node as this process reaches it, through the node's mounts.
func (c *Cluster) NodePath(path string) string { return c.node.path(path) }

// NodeExec runs a program on the node, in its namespaces, and returns what it printed.
func (c *Cluster) NodeExec(ctx context.Context, argv ...string) (string, error) {
	return c.node.exec(ctx, argv...)
}

// NodeMounts is the node's mount table in the form of /proc/self/mountinfo.
func (c *Cluster) NodeMounts() (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.node.init.Process.Pid))
	return string(data), err
}

// TrustRegistry tells the node's container runtime about a registry with a certificate of c.CA.
func (c *Cluster) TrustRegistry(host string) error {
	dir := filepath.Join(c.run, "etc", "certs.d", host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return writeFiles(map[string][]byte{
		filepath.Join(dir, "ca.crt"):     c.CA.PEM,
		filepath.Join(dir, "hosts.toml"): fmt.Appendf(nil, "server = \"https://%s\"\n[host.\"https://%s\"]\n  ca = \"ca.crt\"\n", host, host),
	})
}
