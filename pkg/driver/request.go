package driver

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
)

const (
	// maxVolumeID is far above the 128 bytes of the CSI specification, which the handles of static PersistentVolumes
	// do not always keep to, and keeps a lease small.
	maxVolumeID = 1024
	// maxTarget leaves room below PATH_MAX (4096) for the model's own paths.
	maxTarget = 2048
)

// namePattern is the CSI specification's rule for a plugin's name: a domain name of at most 63 characters.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9]([-.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("CSI driver name %q must be letters, digits, - and . (at most 63): %w", shorten(name), model.ErrInvalid)
	}
	return nil
}

// kernelDirs are filesystems that are no place for a volume.
var kernelDirs = []string{"/proc", "/sys", "/dev"}

// checkVolume checks what every call for a published volume names. stateRoot is the cache, where no target may be.
func checkVolume(volumeID, target, stateRoot string) error {
	switch {
	case volumeID == "":
		return fmt.Errorf("volume id is missing: %w", model.ErrInvalid)
	case len(volumeID) > maxVolumeID:
		return fmt.Errorf("volume id is longer than %d bytes: %w", maxVolumeID, model.ErrInvalid)
	case strings.ContainsFunc(volumeID, unicode.IsControl):
		return fmt.Errorf("volume id %q has control characters: %w", shorten(volumeID), model.ErrInvalid)
	case target == "":
		return fmt.Errorf("target path is missing: %w", model.ErrInvalid)
	case len(target) > maxTarget:
		return fmt.Errorf("target path is longer than %d bytes: %w", maxTarget, model.ErrInvalid)
	}
	if err := mount.CheckPath(target); err != nil {
		return fmt.Errorf("target %w", err)
	}
	for _, dir := range append(kernelDirs, stateRoot) {
		if target == dir || strings.HasPrefix(target, dir+"/") {
			return fmt.Errorf("target path %s lies in %s, which is no place for a volume: %w", target, dir, model.ErrInvalid)
		}
	}
	return nil
}

// flags are mount options that a volume has anyway, and that a PersistentVolume may therefore ask for.
var flags = []string{"ro", "nosuid", "nodev", "noexec"}

// checkCapability accepts what a read-only directory can be. SINGLE_NODE_WRITER with readonly false is what kubelet
// says of every inline volume, and what csi-sanity says of every volume; it is accepted and mounted read-only. Writers on
// several nodes are refused: whoever asks for that expects to write.
func checkCapability(c *csi.VolumeCapability, readonly, exec bool) error {
	switch {
	case c == nil:
		return fmt.Errorf("volume capability is missing: %w", model.ErrInvalid)
	case c.GetBlock() != nil:
		return fmt.Errorf("volumeMode Block is not possible, a model is a directory; use volumeMode Filesystem: %w", model.ErrInvalid)
	case c.GetMount() == nil:
		return fmt.Errorf("volume capability has no access type: %w", model.ErrInvalid)
	}
	for _, flag := range c.GetMount().GetMountFlags() {
		if !slices.Contains(flags, flag) {
			return fmt.Errorf("mount option %q is not possible; volumes are always mounted ro,nosuid,nodev and without %s: \"true\" noexec: %w", shorten(flag), attrExec, model.ErrInvalid)
		}
		if flag == "noexec" && exec {
			return fmt.Errorf("mount option noexec contradicts volume attribute %q: %w", attrExec, model.ErrInvalid)
		}
	}
	switch mode := c.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return fmt.Errorf("access mode is missing: %w", model.ErrInvalid)
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if !readonly {
			return fmt.Errorf("access mode %s is not possible, models are read-only; use ReadOnlyMany: %w", mode, model.ErrInvalid)
		}
	}
	return nil
}
