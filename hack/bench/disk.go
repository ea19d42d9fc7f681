package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// slowDisk is a filesystem in a file, on a loop device whose writes the kernel slows down.
type slowDisk struct {
	dir, image string
	// lift takes the limit away again.
	lift func() error
}

// newSlowDisk makes an ext4 filesystem of size bytes below work that takes rate bytes in a second. Close removes it.
func newSlowDisk(work string, size, rate int64) (_ *slowDisk, err error) {
	d := &slowDisk{dir: filepath.Join(work, "slow"), image: filepath.Join(work, "slow.img"), lift: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := mkdir(d.dir); err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(d.image, size); err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", d.image}, {"mount", "-o", "loop", d.image, d.dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	var s unix.Stat_t
	if err := unix.Stat(d.dir, &s); err != nil {
		return nil, err
	}
	d.lift, err = limitWrites(fmt.Sprintf("%d:%d", unix.Major(s.Dev), unix.Minor(s.Dev)), rate)
	return d, err
}

// limitWrites slows a device down for this process and its children, by whichever version of control groups there is.
func limitWrites(device string, rate int64) (lift func() error, err error) {
	const v1 = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device"
	if _, err := os.Stat(v1); err == nil {
		set := func(rate int64) error { return os.WriteFile(v1, fmt.Appendf(nil, "%s %d", device, rate), 0) }
		return func() error { return set(0) }, set(rate)
	}
	const root = "/sys/fs/cgroup"
	group := filepath.Join(root, "model-csi-bench")
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+io"), 0); err != nil {
		return nil, fmt.Errorf("control groups do not limit writes here: %w", err)
	}
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	move := func(group string) error {
		return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	lift = func() error { return errors.Join(move(root), os.Remove(group)) }
	err = os.WriteFile(filepath.Join(group, "io.max"), fmt.Appendf(nil, "%s wbps=%d", device, rate), 0)
	return lift, errors.Join(err, move(group))
}

// Close unmounts the filesystem and removes it.
func (d *slowDisk) Close() error {
	err := d.lift()
	if e := unix.Unmount(d.dir, 0); e != nil && !errors.Is(e, unix.EINVAL) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, os.Remove(d.image))
}
