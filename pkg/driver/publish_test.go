package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

func TestPublish(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request("pullPolicy", "Always", "include", "*.onnx,*.json", "exclude", "int8/", "exec", "true")))
	state := e.mounted()
	if !state.ReadOnly || state.NoExec || state.Source != e.store.ViewPath(e.puller.tree.Digest()) {
		t.Errorf("mount: %+v", state)
	}
	if info, err := os.Lstat(e.target); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("target directory: %v, %v", info, err)
	}
	lease, ok := e.store.Lease("csi-0123", e.target)
	if !ok || lease.View != e.puller.tree.Digest() || lease.Digest == "" || lease.Pod != "default/pod" ||
		lease.Reference != "registry.example.com/models/qwen3:8b" || lease.Format != "modelpack" ||
		lease.Files != 5 || lease.Bytes != e.puller.tree.Size() {
		t.Errorf("lease: %+v", lease)
	}
	r := e.puller.requests[0]
	if r.Namespace != "default" {
		t.Errorf("the rules are asked about namespace %q", r.Namespace)
	}
	if r.Policy != pull.PolicyAlways || !slices.Equal(r.Include, []string{"*.onnx", "*.json"}) || !slices.Equal(r.Exclude, []string{"int8/"}) {
		t.Errorf("pull request: %+v", r)
	}
	must(t, e.unpublish())
	e.checkNothingLeft()
}

func TestPublishTwice(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request("subPath", "onnx")))
	e.puller.onPull(func(context.Context) error { return fmt.Errorf("registry: %w", model.ErrUnavailable) })
	must(t, e.publish(e.request("subPath", "onnx")))
	must(t, e.publish(e.request("subPath", "./onnx/")))
	if e.puller.pulls() != 1 || e.mounter.Calls("bind") != 1 {
		t.Errorf("%d pulls and %d mounts, want one of each", e.puller.pulls(), e.mounter.Calls("bind"))
	}
	wantCode(t, e.publish(e.request("subPath", "onnx/int8")), codes.AlreadyExists)
	wantCode(t, e.publish(e.request("subPath", "onnx", "exec", "true")), codes.AlreadyExists)
	other := e.request("subPath", "onnx")
	other.VolumeId = "csi-other"
	wantCode(t, e.publish(other), codes.AlreadyExists)
	if !e.mounted().Mounted {
		t.Error("a refused publish took the mount away")
	}
}

// Two pods of one PersistentVolume on a node have two targets of one volume.
func TestPublishAtTwoTargets(t *testing.T) {
	e := newEnv(t)
	first, second := e.request(), e.request()
	second.TargetPath = filepath.Join(e.pod, "second")
	must(t, e.publish(first))
	must(t, e.publish(second))
	must(t, e.unpublish())
	if state, err := e.mounter.State(second.TargetPath); err != nil || !state.Mounted {
		t.Errorf("unpublishing one target took the other away: %+v, %v", state, err)
	}
}

func TestPublishSubPath(t *testing.T) {
	for sub, want := range map[string]string{
		"":           "",
		"onnx":       "/onnx",
		"onnx/int8":  "/onnx/int8",
		"./onnx/":    "/onnx",
		"latest":     "/onnx/int8",
		"onnx//int8": "/onnx/int8",
	} {
		e := newEnv(t)
		must(t, e.publish(e.request("subPath", sub)))
		if got := e.mounted().Source; got != e.store.ViewPath(e.puller.tree.Digest())+want {
			t.Errorf("subPath %q shows %s", sub, got)
		}
		lease, _ := e.store.Lease("csi-0123", e.target)
		if strings.HasSuffix(want, "int8") && (lease.Files != 1 || lease.Bytes != 4) {
			t.Errorf("subPath %q: lease counts %d files and %d bytes", sub, lease.Files, lease.Bytes)
		}
	}
}

func TestPublishBadSubPath(t *testing.T) {
	for sub, text := range map[string]string{
		"config.json":       `did you mean "onnx"? It has onnx, onnx/int8`,
		"onnx/int9":         `did you mean "onnx/int8"?`,
		"config.json/below": "is not a directory",
		"../views":          "leaves the model's directory",
		"/onnx":             "is absolute",
		"onnx/../..":        "leaves the model's directory",
	} {
		e := newEnv(t)
		err := e.publish(e.request("subPath", sub))
		wantCode(t, err, codes.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("subPath %q: error %v lacks %q", sub, err, text)
		}
		e.checkNothingLeft()
	}
}

// What is wrong with a reference, and what would be right, is in the event that kubelet makes of the error.
func TestPublishBadReference(t *testing.T) {
	for ref, text := range map[string]string{
		"olama://llama3.2":          "did you mean ollama?",
		"hf://org/name/file.gguf":   "hf://[datasets/|spaces/]org/name[@revision]",
		"ollama://a/b/c/d":          "ollama://[host/][namespace/]name[:tag]",
		"model-registry://":         "model-registry://[host/]model[/version]",
		"s3://bucket/model":         "push the model to a registry",
		"https://registry.io/model": "without https://",
		"qwen3":                     "names no registry",
		"hf://org/name@a\nb":        "is not a branch",
	} {
		e := newEnv(t)
		err := e.publish(e.request("reference", ref))
		wantCode(t, err, codes.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("reference %q: error %v lacks %q", ref, err, text)
		}
		e.checkNothingLeft()
	}
}

// Links in a view that lead out cannot come from a tree; they could come from somebody with access to the disk.
func TestSubPathStaysInside(t *testing.T) {
	base := t.TempDir()
	view := filepath.Join(base, "view")
	must(t, os.MkdirAll(filepath.Join(view, "dir"), 0o755))
	must(t, os.Mkdir(filepath.Join(base, "secret"), 0o755))
	must(t, os.Symlink("../secret", filepath.Join(view, "out")))
	must(t, os.Symlink(filepath.Join(base, "secret"), filepath.Join(view, "absolute")))
	for _, sub := range []string{"out", "absolute", "dir/../../secret"} {
		if got, err := subPath(view, sub, nil); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("subPath %q gave %q, %v", sub, got, err)
		}
	}
}

func TestPublishBadRequests(t *testing.T) {
	for name, spoil := range map[string]func(*csi.NodePublishVolumeRequest, *env){
		"no volume id":        func(r *csi.NodePublishVolumeRequest, _ *env) { r.VolumeId = "" },
		"volume id with NUL":  func(r *csi.NodePublishVolumeRequest, _ *env) { r.VolumeId = "a\x00b" },
		"volume id too long":  func(r *csi.NodePublishVolumeRequest, _ *env) { r.VolumeId = strings.Repeat("a", 2000) },
		"no target":           func(r *csi.NodePublishVolumeRequest, _ *env) { r.TargetPath = "" },
		"relative target":     func(r *csi.NodePublishVolumeRequest, _ *env) { r.TargetPath = "pods/x" },
		"target with dots":    func(r *csi.NodePublishVolumeRequest, e *env) { r.TargetPath = e.pod + "/x/../../../y" },
		"target with slash":   func(r *csi.NodePublishVolumeRequest, _ *env) { r.TargetPath += "/" },
		"target is root":      func(r *csi.NodePublishVolumeRequest, _ *env) { r.TargetPath = "/" },
		"target in proc":      func(r *csi.NodePublishVolumeRequest, _ *env) { r.TargetPath = "/proc/self/fd/3" },
		"target in the cache": func(r *csi.NodePublishVolumeRequest, e *env) { r.TargetPath = e.store.root + "/views/x" },
		"target is the cache": func(r *csi.NodePublishVolumeRequest, e *env) { r.TargetPath = e.store.root },
		"target too long":     func(r *csi.NodePublishVolumeRequest, _ *env) { r.TargetPath += strings.Repeat("/a", 2000) },
		"no capability":       func(r *csi.NodePublishVolumeRequest, _ *env) { r.VolumeCapability = nil },
		"no access type":      func(r *csi.NodePublishVolumeRequest, _ *env) { r.VolumeCapability.AccessType = nil },
		"block": func(r *csi.NodePublishVolumeRequest, _ *env) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		},
		"no access mode": func(r *csi.NodePublishVolumeRequest, _ *env) { r.VolumeCapability.AccessMode = nil },
		"many writers": func(r *csi.NodePublishVolumeRequest, _ *env) {
			r.VolumeCapability = capability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
		},
		"mount option": func(r *csi.NodePublishVolumeRequest, _ *env) {
			r.VolumeCapability.GetMount().MountFlags = []string{"rw"}
		},
		"exec and noexec": func(r *csi.NodePublishVolumeRequest, _ *env) {
			r.VolumeContext["exec"] = "true"
			r.VolumeCapability.GetMount().MountFlags = []string{"noexec"}
		},
		"no reference": func(r *csi.NodePublishVolumeRequest, _ *env) { delete(r.VolumeContext, "reference") },
		"bad secret":   func(r *csi.NodePublishVolumeRequest, _ *env) { r.Secrets = map[string]string{"color": "blue"} },
		"target is a link": func(r *csi.NodePublishVolumeRequest, e *env) {
			must(e.t, os.Symlink(e.t.TempDir(), filepath.Join(e.pod, "link")))
			r.TargetPath = filepath.Join(e.pod, "link")
		},
		"target below a link": func(r *csi.NodePublishVolumeRequest, e *env) {
			must(e.t, os.Symlink(e.t.TempDir(), filepath.Join(e.pod, "link")))
			r.TargetPath = filepath.Join(e.pod, "link", "mount")
		},
		"target is a file": func(r *csi.NodePublishVolumeRequest, e *env) {
			r.TargetPath = filepath.Join(e.pod, "file")
			must(e.t, os.WriteFile(r.TargetPath, nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			r := e.request()
			spoil(r, e)
			wantCode(t, e.publish(r), codes.InvalidArgument)
			e.checkNothingLeft()
			if e.mounter.Calls("bind") > 0 {
				t.Error("something was mounted")
			}
		})
	}
}

func TestPublishAccessModes(t *testing.T) {
	for mode := range csi.VolumeCapability_AccessMode_Mode_name {
		for _, readonly := range []bool{true, false} {
			e := newEnv(t)
			r := e.request()
			m := csi.VolumeCapability_AccessMode_Mode(mode)
			r.VolumeCapability, r.Readonly = capability(m), readonly
			r.VolumeCapability.GetMount().MountFlags = []string{"ro", "noexec"}
			want := codes.OK
			writers := m == csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER || m == csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
			if mode == 0 || writers && !readonly {
				want = codes.InvalidArgument
			}
			t.Run(fmt.Sprint(m, " readonly ", readonly), func(t *testing.T) { wantCode(t, e.publish(r), want) })
			if want == codes.OK && !e.mounted().ReadOnly {
				t.Errorf("%s: the mount is writable", m)
			}
		}
	}
}

func TestPublishUndoesItself(t *testing.T) {
	broken := errors.New("broken")
	full := fmt.Errorf("disk: %w", model.ErrNoSpace)
	for name, c := range map[string]struct {
		fail func(e *env)
		want codes.Code
	}{
		"pull": {func(e *env) {
			e.puller.onPull(func(context.Context) error { return fmt.Errorf("no: %w", model.ErrDenied) })
		}, codes.PermissionDenied},
		"view":            {func(e *env) { e.store.failing("EnsureView", full) }, codes.ResourceExhausted},
		"lease":           {func(e *env) { e.store.failing("PutLease", full) }, codes.ResourceExhausted},
		"pod is gone":     {func(e *env) { must(e.t, os.Remove(e.pod)) }, codes.Internal},
		"mount":           {func(e *env) { failOn(e, "bind", broken) }, codes.Internal},
		"state of target": {func(e *env) { failFirst(e, "state", broken) }, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			c.fail(e)
			wantCode(t, e.publish(e.request()), c.want)
			e.mounter.Fail(nil)
			e.checkNothingLeft()
		})
	}
}

func failOn(e *env, op string, err error) {
	e.mounter.Fail(func(o, _ string) error {
		if o == op {
			return err
		}
		return nil
	})
}

func failFirst(e *env, op string, err error) {
	var once sync.Once
	e.mounter.Fail(func(o, _ string) (failure error) {
		if o == op {
			once.Do(func() { failure = err })
		}
		return failure
	})
}

func TestPublishKeepsATargetThatWasThere(t *testing.T) {
	e := newEnv(t)
	must(t, os.Mkdir(e.target, 0o750))
	failOn(e, "bind", errors.New("broken"))
	wantCode(t, e.publish(e.request()), codes.Internal)
	if _, err := os.Stat(e.target); err != nil {
		t.Error("kubelet's directory was removed:", err)
	}
}

// When the mount cannot be taken away again, its view must stay protected.
func TestPublishKeepsTheLeaseOfWhatItCannotUndo(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	e.mounter.Fail(func(op, _ string) error {
		switch op {
		case "bind":
			cancel()
		case "unmount":
			return errors.New("stuck")
		}
		return nil
	})
	err := e.publishCtx(ctx, e.request())
	if err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("error %v does not tell that the mount is stuck", err)
	}
	if _, ok := e.store.Lease("csi-0123", e.target); !ok || !e.mounted().Mounted {
		t.Error("a mount was left without a lease")
	}
}

func TestPublishCancelled(t *testing.T) {
	for _, at := range []string{"pull", "bind"} {
		t.Run(at, func(t *testing.T) {
			e := newEnv(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			e.puller.onPull(func(context.Context) error {
				if at == "pull" {
					cancel()
				}
				return nil
			})
			e.mounter.Fail(func(op, _ string) error {
				if op == at {
					cancel()
				}
				return nil
			})
			wantCode(t, e.publishCtx(ctx, e.request()), codes.Canceled)
			e.checkNothingLeft()
			e.puller.onPull(nil)
			must(t, e.publish(e.request()))
		})
	}
}

func TestPublishTimeLimit(t *testing.T) {
	for deadline, want := range map[time.Duration]time.Duration{
		0:                 110 * time.Second,
		2 * time.Minute:   110 * time.Second,
		time.Minute:       58 * time.Second,
		3 * time.Second:   1500 * time.Millisecond,
		100 * time.Second: 98 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newEnv(t)
			ctx := t.Context()
			if deadline > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, deadline)
				defer cancel()
			}
			e.puller.onPull(func(ctx context.Context) error {
				<-ctx.Done()
				return fmt.Errorf("pulling x: 43%% (6.9 of 16.1 GiB): %w", model.ErrPulling)
			})
			err := e.publishCtx(ctx, e.request())
			wantCode(t, err, codes.Aborted)
			if !strings.Contains(fmt.Sprint(err), "43%") {
				t.Errorf("error %v lacks the progress", err)
			}
			if got := e.puller.limits[0]; got != want {
				t.Errorf("deadline in %s: the pull may take %s, want %s", deadline, got, want)
			}
			e.checkNothingLeft()
		})
	}
}

func TestPublishConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		resume := make(chan struct{})
		e.puller.onPull(func(context.Context) error { <-resume; return nil })
		first := make(chan error)
		go func() { first <- e.publish(e.request()) }()
		synctest.Wait()
		start := time.Now()
		wantCode(t, e.publish(e.request()), codes.Aborted)
		if waited := time.Since(start); waited != lockWait {
			t.Errorf("the second call waited %s, want %s", waited, lockWait)
		}
		wantCode(t, e.unpublish(), codes.Aborted)
		second := make(chan error)
		go func() { second <- e.publish(e.request()) }()
		synctest.Wait()
		close(resume)
		must(t, <-first)
		must(t, <-second)
		if e.puller.pulls() != 1 || e.mounter.Calls("bind") != 1 {
			t.Errorf("%d pulls, %d mounts", e.puller.pulls(), e.mounter.Calls("bind"))
		}
		must(t, e.unpublish())
		e.checkNothingLeft()
		if len(e.targets.held) != 0 {
			t.Errorf("locks are left: %v", e.targets.held)
		}
	})
}

func TestPublishManyTargets(t *testing.T) {
	e := newEnv(t)
	var wg sync.WaitGroup
	for i := range 100 {
		r := e.request()
		r.VolumeId, r.TargetPath = fmt.Sprint("csi-", i), filepath.Join(e.pod, fmt.Sprint(i))
		wg.Go(func() {
			for range 2 {
				if err := e.publish(r); err != nil {
					t.Error(err)
				}
			}
			_, err := e.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: r.GetVolumeId(), TargetPath: r.GetTargetPath()})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	e.checkNothingLeft()
}

func TestPublishReplacesCorruptedMount(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	e.mounter.Corrupt(e.target)
	must(t, e.publish(e.request()))
	if state := e.mounted(); !state.Mounted || state.Corrupted {
		t.Errorf("mount: %+v", state)
	}
}

// The lease's file was lost; the pod runs, and kubelet asks again after its restart.
func TestPublishAdoptsMountWithoutLease(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request("subPath", "onnx")))
	must(t, e.store.DropLease("csi-0123", e.target))
	e.puller.onPull(func(context.Context) error { return model.ErrUnavailable })
	must(t, e.publish(e.request("subPath", "onnx")))
	lease, ok := e.store.Lease("csi-0123", e.target)
	if !ok || lease.View != e.puller.tree.Digest() || lease.Files != 3 || lease.Bytes != 16 {
		t.Errorf("adopted lease: %+v", lease)
	}
}

func TestPublishRefusesOtherMount(t *testing.T) {
	e := newEnv(t)
	must(t, os.Mkdir(e.target, 0o750))
	must(t, e.mounter.BindReadOnly(t.TempDir(), e.target, mountOptions))
	wantCode(t, e.publish(e.request()), codes.AlreadyExists)
	if !e.mounted().Mounted {
		t.Error("somebody else's mount was taken away")
	}
}

// After a reboot the lease is there and the mount is not.
func TestPublishAfterReboot(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	e.mounter.Reboot()
	must(t, e.publish(e.request()))
	if !e.mounted().Mounted || e.puller.pulls() != 2 {
		t.Errorf("mounted %t after %d pulls", e.mounted().Mounted, e.puller.pulls())
	}
}
