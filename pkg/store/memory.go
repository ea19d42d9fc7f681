package store

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// MemoryForCache is how many bytes written now could stay in the page cache, in bytes, as far as the kernel can tell.
// Pages of written files count for the process that wrote them: the limit of its control group bounds them, too. It is 0
// where nothing can be found out.
func MemoryForCache() int64 { return memoryForCache(os.DirFS("/")) }

// memoryGroup is a control group with a limit; all in bytes.
type memoryGroup struct {
	limit, used int64
	// files is what the group has in the page cache and has not used lately: it makes place for other pages.
	files int64
}

// memoryLeft is what may be filled: what the machine has available, and no more than each group allows.
func memoryLeft(available int64, groups []memoryGroup) int64 {
	for _, g := range groups {
		available = min(available, g.limit-g.used+g.files)
	}
	return max(available, 0)
}

func memoryForCache(root fs.FS) int64 {
	available, ok := value(root, "proc/meminfo", "MemAvailable:")
	if !ok {
		return 0
	}
	return memoryLeft(available<<10, memoryGroups(root)) // meminfo counts in KiB
}

// memoryGroups finds the groups that bound this process: its own and those above, as far as they can be seen. Inside a
// container the own group is often what is mounted, under whatever name the process has it.
func memoryGroups(root fs.FS) []memoryGroup {
	data, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	var out []memoryGroup
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "": // the unified hierarchy, see cgroups(7)
			for _, mount := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
				out = append(out, groupsUp(root, mount, parts[2], unifiedGroup)...)
			}
		case strings.Contains(","+parts[1]+",", ",memory,"):
			out = append(out, groupsUp(root, "sys/fs/cgroup/memory", parts[2], legacyGroup)...)
		}
	}
	return out
}

// groupsUp reads the group of that name and all above it.
func groupsUp(root fs.FS, mount, name string, read func(fs.FS, string) (memoryGroup, bool)) []memoryGroup {
	var out []memoryGroup
	for name = path.Clean("/" + name); ; name = path.Dir(name) {
		if g, ok := read(root, path.Join(mount, name)); ok {
			out = append(out, g)
		}
		if name == "/" {
			return out
		}
	}
}

func unifiedGroup(root fs.FS, dir string) (memoryGroup, bool) {
	limit := int64(math.MaxInt64)
	for _, name := range []string{"memory.max", "memory.high"} { // above high, writers are slowed down
		if n, ok := number(root, path.Join(dir, name)); ok {
			limit = min(limit, n)
		}
	}
	used, ok := number(root, path.Join(dir, "memory.current"))
	files, _ := value(root, path.Join(dir, "memory.stat"), "inactive_file")
	return memoryGroup{limit, used, files}, ok && limit < math.MaxInt64
}

func legacyGroup(root fs.FS, dir string) (memoryGroup, bool) {
	limit, limited := number(root, path.Join(dir, "memory.limit_in_bytes"))
	used, ok := number(root, path.Join(dir, "memory.usage_in_bytes"))
	files, _ := value(root, path.Join(dir, "memory.stat"), "total_inactive_file")
	return memoryGroup{limit, used, files}, ok && limited
}

// number reads a file that holds one number; "max" is none.
func number(root fs.FS, name string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil
}

// value reads the number that follows a word at the start of a line.
func value(root fs.FS, name, word string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) >= 2 && fields[0] == word {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
