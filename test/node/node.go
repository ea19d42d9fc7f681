// Package node runs the model-csi binary as a child process and calls it over its CSI socket, as kubelet does.
//
// The daemon mounts. [Isolated] gives the calling program a mount namespace of its own first, so that the host sees none
// of the mounts and none outlives the program.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Options of a node. Binary and Dir are required.
type Options struct {
	// Binary is the path of model-csi.
	Binary string
	// Dir holds everything of the node: the socket, the state root and the targets. Its path must be short, because
	// the path of a socket is at most 107 bytes long.
	Dir string
	// Args are added to the command line.
	Args []string
	// Env is added to the environment.
	Env []string
	// Log also receives what the daemon writes to stderr.
	Log io.Writer
}

// Node is a running daemon with a connection to it.
type Node struct {
	options Options
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
	client  csi.NodeClient
	ended   chan struct{}
	err     error
	log     *syncBuffer
}

// Start runs the daemon and returns when it is ready to serve. When it ends before that, the error carries its log.
func Start(ctx context.Context, o Options) (*Node, error) {
	n := &Node{options: o, ended: make(chan struct{}), log: &syncBuffer{also: o.Log}}
	if err := os.MkdirAll(filepath.Join(o.Dir, "pods"), 0o700); err != nil {
		return nil, err
	}
	args := append([]string{"node", "--endpoint", "unix://" + n.Socket(), "--root", n.Root(), "--node-id", "node-1", "--registration-dir", ""}, o.Args...)
	n.cmd = exec.Command(o.Binary, args...)
	n.cmd.Env = append(os.Environ(), o.Env...)
	n.cmd.Stderr, n.cmd.Stdout = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	go func() {
		n.err = n.cmd.Wait()
		close(n.ended)
	}()
	var err error
	if n.conn, err = grpc.NewClient("unix://"+n.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		n.Kill()
		return nil, err
	}
	n.client = csi.NewNodeClient(n.conn)
	if err := n.ready(ctx); err != nil {
		n.Kill()
		return nil, err
	}
	return n, nil
}

func (n *Node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	identity := csi.NewIdentityClient(n.conn)
	for {
		_, err := identity.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(false))
		if err == nil {
			return nil
		}
		n.conn.ResetConnectBackoff()
		select {
		case <-n.ended:
			return fmt.Errorf("the daemon ended (%w): %s", errOr(n.err, "exit status 0"), n.Log())
		case <-ctx.Done():
			return fmt.Errorf("the daemon is not ready: %w: %s", err, n.Log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

// Socket is the path of the CSI socket.
func (n *Node) Socket() string { return filepath.Join(n.options.Dir, "csi.sock") }

// Root is the daemon's state root.
func (n *Node) Root() string { return filepath.Join(n.options.Dir, "root") }

// Conn is the connection to the daemon.
func (n *Node) Conn() *grpc.ClientConn { return n.conn }

// PID of the daemon.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Log is what the daemon wrote so far.
func (n *Node) Log() string { return n.log.String() }

// Target is where kubelet would want a volume mounted: the path tells the pod by its UID.
func (n *Node) Target(volume string) string {
	return filepath.Join(n.options.Dir, "pods", podUID(volume), "volumes", "kubernetes.io~csi", "model", "mount")
}

// RemovePod removes the pod's directory, as kubelet does once nothing is mounted there.
func (n *Node) RemovePod(volume string) error {
	return os.RemoveAll(filepath.Join(n.options.Dir, "pods", podUID(volume)))
}

func podUID(volume string) string { return "uid-" + volume }

// Volume is a publish request, in short.
type Volume struct {
	ID         string
	Attributes map[string]string
	Secrets    map[string]string
	// Pod and Namespace are what kubelet tells; default "pod-"+ID and "default".
	Pod, Namespace string
}

// Publish asks once for the volume at its target, as kubelet does for an inline volume. Errors carry gRPC codes.
func (n *Node) Publish(ctx context.Context, v Volume) error {
	target := n.Target(v.ID)
	// Kubelet makes the parent, the driver makes the target.
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	_, err := n.client.NodePublishVolume(ctx, v.request(target))
	return err
}

func (v Volume) request(target string) *csi.NodePublishVolumeRequest {
	attributes := map[string]string{
		"csi.storage.k8s.io/pod.name": v.Pod, "csi.storage.k8s.io/pod.namespace": v.Namespace, "csi.storage.k8s.io/pod.uid": podUID(v.ID),
		"csi.storage.k8s.io/serviceAccount.name": "default", "csi.storage.k8s.io/ephemeral": "true",
	}
	if v.Pod == "" {
		attributes["csi.storage.k8s.io/pod.name"] = "pod-" + v.ID
	}
	if v.Namespace == "" {
		attributes["csi.storage.k8s.io/pod.namespace"] = "default"
	}
	for k, value := range v.Attributes {
		attributes[k] = value
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, TargetPath: target, VolumeContext: attributes, Secrets: v.Secrets,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
	}
}

// Unpublish ends the volume at its target.
func (n *Node) Unpublish(ctx context.Context, volume string) error {
	_, err := n.client.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: volume, TargetPath: n.Target(volume)})
	return err
}

// Kill ends the daemon without warning, as a power cut would, and returns when it is gone.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill()
	<-n.ended
	n.disconnect()
}

// stopWithin is kubelet's grace for a pod, twice: a daemon that takes longer hangs, whatever the machine is.
const stopWithin = time.Minute

// Stop asks the daemon to end and waits for it. Any exit status but 0, or more than a minute, is an error.
func (n *Node) Stop() error {
	defer n.disconnect()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-n.ended:
		if n.err != nil {
			return fmt.Errorf("the daemon ended badly: %w: %s", n.err, n.Log())
		}
		return nil
	case <-time.After(stopWithin):
		_ = n.cmd.Process.Kill()
		<-n.ended
		return fmt.Errorf("the daemon did not end within %s of SIGTERM: %s", stopWithin, n.Log())
	}
}

func (n *Node) disconnect() {
	if n.conn != nil {
		_ = n.conn.Close()
	}
}

// syncBuffer keeps what is written to it, from any goroutine.
type syncBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	also io.Writer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.also != nil {
		_, _ = s.also.Write(p)
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
