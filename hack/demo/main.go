// Command demo shows on one machine, with nothing but Go and root, what model-csi does: it starts a real registry, pushes a
// small model into it, runs the node plugin, and publishes the model for two pods as kubelet would. In the end it makes
// sure that nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

func main() {
	binary := flag.String("binary", "bin/model-csi", "the built `program`")
	flag.Parse()
	os.Exit(node.Isolated(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := run(ctx, *binary); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			return 1
		}
		return 0
	}))
}

// demo is what the steps share.
type demo struct {
	binary   string
	dir      string
	registry *registry.Registry
	node     *node.Node
	step     int
}

func run(ctx context.Context, binary string) (err error) {
	began := time.Now()
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "model-csi-demo-")
	if err != nil {
		return err
	}
	d := &demo{binary: binary, dir: dir}
	// Whatever fails, nothing stays.
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	if err := d.show(ctx); err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	fmt.Printf("\nDone in %s. Nothing was left behind: no mount, no process, no file.\n", rounded(time.Since(began)))
	return nil
}

// say prints the headline of a step.
func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Printf("\n%d. %s\n", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) show(ctx context.Context) (err error) {
	if d.registry, err = registry.Start(registry.Options{Dir: filepath.Join(d.dir, "registry")}); err != nil {
		return err
	}
	d.say("A registry runs at %s (CNCF distribution).", d.registry.Host())

	const parameters = 8 << 20
	a, err := artifact.Push(ctx, d.registry.Host(), "demo/tiny", "v1", artifact.TinyModel(parameters), artifact.Options{})
	if err != nil {
		return err
	}
	reference := d.registry.Host() + "/demo/tiny:v1"
	d.say("A model was pushed to it as a CNCF ModelPack artifact: %d files, %s.", len(a.Layers), humanize.IBytes(uint64(a.FileBytes)))
	fmt.Printf("     reference: %s\n     digest:    %s\n", reference, a.Digest)

	if d.node, err = node.Start(ctx, node.Options{Binary: d.binary, Dir: filepath.Join(d.dir, "node")}); err != nil {
		return err
	}
	d.say("The node plugin runs: model-csi node, process %d.", d.node.PID())

	first := node.Volume{ID: "csi-first", Pod: "first", Attributes: map[string]string{"reference": reference}}
	took, err := d.publish(ctx, first)
	if err != nil {
		return err
	}
	d.say("Pod %q asked for the model: pulled, verified and mounted in %s.", first.Pod, rounded(took))
	if err := printTree(d.node.Target(first.ID)); err != nil {
		return err
	}

	second := node.Volume{ID: "csi-second", Pod: "second", Attributes: first.Attributes}
	if took, err = d.publish(ctx, second); err != nil {
		return err
	}
	d.say("Pod %q asked for the same model: mounted from the cache in %s.", second.Pod, rounded(took))
	if err := d.prove(d.node.Target(first.ID), d.node.Target(second.ID)); err != nil {
		return err
	}
	if err := d.status(ctx); err != nil {
		return err
	}
	for _, v := range []node.Volume{first, second} {
		if err := d.node.Unpublish(ctx, v.ID); err != nil {
			return err
		}
	}
	d.say("Both pods ended: their volumes were unpublished.")
	return nil
}

func (d *demo) publish(ctx context.Context, v node.Volume) (time.Duration, error) {
	began := time.Now()
	err := d.node.Publish(ctx, v)
	return time.Since(began), err
}

// printTree lists the files with their modes and sizes.
func printTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Printf("     %s %10s  %s\n", info.Mode(), humanize.IBytes(uint64(info.Size())), e.Name())
	}
	return nil
}

// prove checks what the volumes promise: one copy for both, and no way to change it.
func (d *demo) prove(first, second string) error {
	d.say("What that means:")
	const weights = "model-00001-of-00002.safetensors"
	var a, b syscall.Stat_t
	if err := errors.Join(syscall.Stat(filepath.Join(first, weights), &a), syscall.Stat(filepath.Join(second, weights), &b)); err != nil {
		return err
	}
	if a.Ino != b.Ino || a.Dev != b.Dev {
		return fmt.Errorf("the volumes have their own copies of %s: inodes %d and %d", weights, a.Ino, b.Ino)
	}
	fmt.Printf("     one copy:  %s is inode %d in both volumes, so they share the disk space and the page cache\n", weights, a.Ino)
	err := os.WriteFile(filepath.Join(first, weights), []byte("overwritten"), 0)
	if !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("the volume should be read-only, but writing says %w", err)
	}
	fmt.Printf("     read-only: root writes to it, and the kernel answers %q\n", syscall.EROFS.Error())
	s := d.registry.Stats()
	fmt.Printf("     one pull:  the registry sent %s in %d blobs\n", humanize.IBytes(uint64(s.BlobBytes)), len(s.BlobGets))
	return nil
}

// status shows what the product's own command tells about the node.
func (d *demo) status(ctx context.Context) error {
	d.say("What the node holds, by `model-csi status`:")
	out, err := exec.CommandContext(ctx, d.binary, "status", "--root", d.node.Root()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("model-csi status: %w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		fmt.Print("     ", line)
	}
	return nil
}

// stop ends the plugin and the registry in order and makes sure that nothing is left.
func (d *demo) stop() error {
	mounts, err := node.Mounts(d.dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("mounts are left: %s", strings.Join(mounts, ", "))
	}
	if targets, _ := filepath.Glob(filepath.Join(d.dir, "node/pods/*/mount")); len(targets) > 0 {
		return fmt.Errorf("targets are left: %s", strings.Join(targets, ", "))
	}
	if err := d.node.Stop(); err != nil {
		return err
	}
	pid := d.node.PID()
	d.node = nil
	d.say("The plugin ended on SIGTERM.")
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d is left: %w", pid, err)
	}
	if err := d.cleanUp(); err != nil {
		return err
	}
	if _, err := os.Lstat(d.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is left: %w", d.dir, err)
	}
	return nil
}

// cleanUp ends what still runs and removes the directory. It may be called again.
func (d *demo) cleanUp() error {
	if d.node != nil {
		d.node.Kill()
		d.node = nil
	}
	var errs []error
	if d.registry != nil {
		errs = append(errs, d.registry.Close())
	}
	mounts, err := node.Mounts(d.dir)
	errs = append(errs, err)
	for _, m := range mounts {
		errs = append(errs, syscall.Unmount(m, syscall.MNT_DETACH))
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

func rounded(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d < time.Second:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}
