package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/model-csi/model-csi/test/node"
)

// ours is model-csi as a node runs it: a publish over CSI to a running daemon, mounted and durable when it returns.
type ours struct {
	binary string
	node   *node.Node
}

func (o *ours) name() string    { return "model-csi" }
func (o *ours) reference() bool { return false }

func (o *ours) version() string {
	out, err := exec.Command(o.binary, "--version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "model-csi version "))
}

const benchVolume = "csi-bench"

func (o *ours) start(ctx context.Context, j *job) (err error) {
	o.node, err = node.Start(ctx, node.Options{Binary: o.binary, Dir: j.dir, Args: []string{"--cache-reserve", "1Gi"}})
	return err
}

func (o *ours) pull(ctx context.Context, j *job) (usage, error) {
	before := o.node.CPU()
	v := node.Volume{ID: benchVolume, Attributes: map[string]string{"reference": j.model}}
	if err := o.node.Publish(ctx, v); err != nil {
		return usage{}, err
	}
	memory, err := o.node.PeakRSS()
	return usage{cpu: o.node.CPU() - before, memory: memory}, err
}

func (o *ours) files(*job) string { return o.node.Target(benchVolume) }

func (o *ours) stop(j *job) error {
	if o.node == nil {
		return nil
	}
	errs := []error{o.node.Unpublish(context.Background(), benchVolume), o.node.Stop()}
	o.node = nil
	mounts, err := node.Mounts(j.dir)
	errs = append(errs, err)
	for _, m := range mounts {
		errs = append(errs, syscall.Unmount(m, syscall.MNT_DETACH))
	}
	return errors.Join(errs...)
}

// measureWarm publishes a cached model again and again.
func measureWarm(ctx context.Context, o options, j *job, r *shapeResult) (err error) {
	const publishes = 1000
	t := &ours{binary: o.binary}
	j.next()
	if err := mkdir(j.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.stop(j)) }()
	if err := t.start(ctx, j); err != nil {
		return err
	}
	if _, err := t.pull(ctx, j); err != nil {
		return err
	}
	j.registry.ResetStats()
	times := make([]time.Duration, 0, publishes)
	for i := range publishes {
		v := node.Volume{ID: fmt.Sprintf("csi-warm-%d", i), Attributes: map[string]string{"reference": j.model}}
		began := time.Now()
		if err := t.node.Publish(ctx, v); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	stats := j.registry.Stats()
	for i := range publishes {
		if err := t.node.Unpublish(ctx, fmt.Sprintf("csi-warm-%d", i)); err != nil {
			return err
		}
	}
	slices.Sort(times)
	memory, err := t.node.PeakRSS()
	r.Warm = &warm{Publishes: publishes, P50: times[publishes/2], P99: times[publishes*99/100], Max: times[publishes-1],
		Requests: stats.Requests, Memory: memory}
	return err
}
