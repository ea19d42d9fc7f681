package store

import (
	"testing"
	"testing/fstest"
	"time"
)

func TestCopyBudget(t *testing.T) {
	now := time.Now()
	var all, idle int64
	b := &copyBudget{cores: 4, now: func() time.Time { return now }, ticks: func() (int64, int64) { return all, idle }}
	pass := func(d time.Duration, idleShare float64) {
		now = now.Add(d)
		all += int64(d)
		idle += int64(float64(d) * idleShare)
	}
	pass(time.Hour, 1)
	if !b.allows() || b.left != 500*time.Millisecond {
		t.Fatalf("after a long rest %s of four processors are left", b.left)
	}
	b.took(600 * time.Millisecond)
	if b.allows() {
		t.Fatal("a copy is allowed that was paid for by none")
	}
	pass(time.Second, 1) // of each processor a quarter
	if !b.allows() || b.left != 500*time.Millisecond {
		t.Fatalf("a second later %s are left", b.left)
	}
	pass(time.Second, 0.2)
	if b.allows() {
		t.Fatal("a copy is allowed on a machine that is busy")
	}
	pass(idleEvery/2, 1)
	if b.allows() {
		t.Fatal("the machine is looked at too often")
	}
	pass(time.Second, 0.6)
	if !b.allows() {
		t.Fatal("no copy is allowed on a machine that has time")
	}
	if all, idle := processorTicks(); all < idle || idle < 0 {
		t.Errorf("this machine did nothing during %d of %d", idle, all)
	}
}

func TestMemoryForCache(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const meminfo = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\n"
	tests := []struct {
		name  string
		files fstest.MapFS
		want  int64
	}{
		{"nothing known", fstest.MapFS{}, 0},
		{"no control group", fstest.MapFS{"proc/meminfo": file(meminfo)}, 800 << 10},
		{"unlimited", fstest.MapFS{"proc/meminfo": file(meminfo), "proc/self/cgroup": file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("max\n"), "sys/fs/cgroup/memory.current": file("5\n")}, 800 << 10},
		{"version 2, in a container", fstest.MapFS{"proc/meminfo": file(meminfo), "proc/self/cgroup": file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("500000\n"), "sys/fs/cgroup/memory.high": file("max\n"),
			"sys/fs/cgroup/memory.current": file("200000\n"), "sys/fs/cgroup/memory.stat": file("anon 5\ninactive_file 50000\n")}, 350_000},
		{"version 2, slowed down before the limit", fstest.MapFS{"proc/meminfo": file(meminfo), "proc/self/cgroup": file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("500000\n"), "sys/fs/cgroup/memory.high": file("300000\n"),
			"sys/fs/cgroup/memory.current": file("200000\n")}, 100_000},
		{"version 2, a group above is tighter", fstest.MapFS{"proc/meminfo": file(meminfo), "proc/self/cgroup": file("0::/pods/a\n"),
			"sys/fs/cgroup/pods/a/memory.max": file("500000\n"), "sys/fs/cgroup/pods/a/memory.current": file("0\n"),
			"sys/fs/cgroup/pods/memory.max": file("90000\n"), "sys/fs/cgroup/pods/memory.current": file("80000\n")}, 10_000},
		{"version 1, full", fstest.MapFS{"proc/meminfo": file(meminfo), "proc/self/cgroup": file("5:cpu:/x\n4:memory:/y/z\n0::/\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("1000\n"), "sys/fs/cgroup/memory/memory.usage_in_bytes": file("2000\n")}, 0},
		{"version 1, under the name that the host gives", fstest.MapFS{"proc/meminfo": file(meminfo), "proc/self/cgroup": file("4:cpu,memory:/y\n"),
			"sys/fs/cgroup/memory/y/memory.limit_in_bytes": file("4000\n"), "sys/fs/cgroup/memory/y/memory.usage_in_bytes": file("2000\n"),
			"sys/fs/cgroup/memory/y/memory.stat": file("inactive_file 1\ntotal_inactive_file 500\n")}, 2500},
	}
	for _, tt := range tests {
		if got := memoryForCache(tt.files); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	if MemoryForCache() <= 0 {
		t.Error("this machine has no memory")
	}
}
