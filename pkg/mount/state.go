package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

// inconsistentReads is how often the mount table is read again when a mount that certainly exists is not in it.
// Kernels before 5.8 leave entries out when mounts change while the table is read.
const inconsistentReads = 5

// State implements Mounter.
//
// The target is held by a descriptor, so its mount cannot go away in between, and the kernel says which mount the
// descriptor belongs to. Comparing paths with the mount table would be fooled by stacked mounts and odd names.
func (s *System) State(target string) (State, error) {
	if err := CheckPath(target); err != nil {
		return State{}, err
	}
	fd, err := openPath(target, 0)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, model.ErrInvalid):
		return State{}, nil
	case isCorrupted(err):
		return s.stateByPath(target)
	case err != nil:
		return State{}, fmt.Errorf("state of mount: %w", err)
	}
	h := handle{fd, target}
	defer h.close()
	id, err := mountID(fd)
	if err != nil {
		return State{}, fmt.Errorf("state of mount %s: %w", target, err)
	}
	real, err := os.Readlink(h.proc())
	if err != nil {
		return State{}, fmt.Errorf("state of mount %s: %w", target, err)
	}
	for range inconsistentReads {
		infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.ID != id, i.ID == id })
		if err != nil {
			return State{}, fmt.Errorf("read mount table: %w", err)
		}
		if len(infos) == 0 {
			continue
		}
		// The directory that is shown may have been removed meanwhile; only the link says so.
		if point := infos[0].Mountpoint; real != point && real != point+" (deleted)" {
			return State{}, nil // an ordinary directory inside of that mount
		}
		state := stateOf(infos[0])
		state.Corrupted = isCorrupted(probe(fd))
		return state, nil
	}
	return State{}, fmt.Errorf("state of mount %s: mount %d is not in the mount table", target, id)
}

// stateByPath is for mounts that are so broken that not even naming them works.
func (s *System) stateByPath(target string) (State, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != target, false })
	if err != nil {
		return State{}, fmt.Errorf("read mount table: %w", err)
	}
	if len(infos) == 0 {
		return State{}, nil
	}
	state := stateOf(infos[len(infos)-1])
	state.Corrupted = true
	return state, nil
}

// List implements Mounter.
func (s *System) List() ([]Point, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	points := make([]Point, len(infos))
	for i, info := range infos {
		points[i] = Point{Target: info.Mountpoint, Root: strings.TrimSuffix(info.Root, deleted), Device: device(info)}
	}
	return points, nil
}

func stateOf(info *mountinfo.Info) State {
	options := strings.Split(info.Options, ",")
	return State{
		Mounted:  true,
		Source:   strings.TrimSuffix(info.Root, deleted),
		Device:   device(info),
		ReadOnly: slices.Contains(options, "ro"),
		NoExec:   slices.Contains(options, "noexec"),
	}
}

func device(info *mountinfo.Info) string { return fmt.Sprintf("%d:%d", info.Major, info.Minor) }

// mountID of the mount that the descriptor belongs to; the descriptor keeps the number from being used again.
func mountID(fd int) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, errors.New("the kernel does not say which mount a descriptor belongs to")
}

// probe asks the filesystem itself.
func probe(fd int) error {
	var st unix.Stat_t
	return unix.Fstat(fd, &st)
}

// isCorrupted tells the errors of a filesystem whose server is gone (FUSE, NFS).
func isCorrupted(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE)
}
