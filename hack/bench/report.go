package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// report is everything that was measured, and on what.
type report struct {
	Date    time.Time      `json:"date"`
	Machine machine        `json:"machine"`
	Rounds  int            `json:"rounds"`
	Scale   float64        `json:"scale"`
	Shapes  []*shapeResult `json:"shapes"`
}

type machine struct {
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	Memory     uint64 `json:"memoryBytes"`
	Kernel     string `json:"kernel"`
	Filesystem string `json:"filesystem"`
}

type shapeResult struct {
	Name  string        `json:"name"`
	Title string        `json:"title"`
	Bytes int64         `json:"bytes"`
	Tools []*toolResult `json:"tools,omitempty"`
	// OfLimits is, for a single blob, the median wall time of model-csi divided by the longer one of sha256 and save.
	OfLimits float64 `json:"ofLimits,omitempty"`
	Warm     *warm   `json:"warm,omitempty"`
}

type toolResult struct {
	Name      string   `json:"name"`
	Version   string   `json:"version,omitempty"`
	Reference bool     `json:"reference,omitempty"`
	Samples   []sample `json:"samples"`
	Errors    []string `json:"errors,omitempty"`
	// Medians over the samples.
	Median sample `json:"median"`
	// OfBestPeer is the median wall time divided by that of the fastest peer.
	OfBestPeer float64 `json:"ofBestPeer,omitempty"`
}

// warm is what publishing a cached model takes.
type warm struct {
	Publishes int           `json:"publishes"`
	P50       time.Duration `json:"p50"`
	P99       time.Duration `json:"p99"`
	Max       time.Duration `json:"max"`
	Requests  int           `json:"requests"`
	Memory    int64         `json:"memory"`
}

func newReport(o options, dir string) *report {
	r := &report{Date: time.Now().UTC(), Rounds: o.rounds, Scale: o.scale}
	r.Machine.CPUs = runtime.NumCPU()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Machine.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) == nil {
		r.Machine.Memory = i.Totalram * uint64(i.Unit)
	}
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(content)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				r.Machine.CPU = strings.TrimSpace(v)
				break
			}
		}
	}
	r.Machine.Filesystem = filesystem(dir)
	return r
}

func filesystem(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return "unknown"
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	}
	return fmt.Sprintf("%#x", s.Type)
}

func (r *shapeResult) add(t tool, s sample, err error) {
	i := slices.IndexFunc(r.Tools, func(x *toolResult) bool { return x.Name == t.name() })
	if i < 0 {
		r.Tools = append(r.Tools, &toolResult{Name: t.name(), Version: t.version(), Reference: t.reference()})
		i = len(r.Tools) - 1
	}
	if err != nil {
		r.Tools[i].Errors = append(r.Tools[i].Errors, err.Error())
		return
	}
	r.Tools[i].Samples = append(r.Tools[i].Samples, s)
}

// finish computes medians and ratios, and sorts the tools as the report shows them. single says that the model is one
// blob.
func (r *shapeResult) finish(single bool) {
	order := toolNames()
	slices.SortFunc(r.Tools, func(a, b *toolResult) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
	var best time.Duration
	for _, t := range r.Tools {
		if len(t.Samples) == 0 {
			continue
		}
		t.Median = medians(t.Samples)
		if peer := !t.Reference && t.Name != "model-csi"; peer && (best == 0 || t.Median.Wall < best) {
			best = t.Median.Wall
		}
	}
	for _, t := range r.Tools {
		if best > 0 && len(t.Samples) > 0 {
			t.OfBestPeer = float64(t.Median.Wall) / float64(best)
		}
	}
	if hashed, saved := r.wall("sha256"), r.wall("save"); single && hashed > 0 && saved > 0 {
		r.OfLimits = float64(r.wall("model-csi")) / float64(max(hashed, saved))
	}
}

// wall is the median wall time of a tool; 0 when it was not measured.
func (r *shapeResult) wall(tool string) time.Duration {
	for _, t := range r.Tools {
		if t.Name == tool {
			return t.Median.Wall
		}
	}
	return 0
}

// medians takes the median of each quantity on its own.
func medians(samples []sample) sample {
	return sample{
		Wall: median(samples, func(s sample) time.Duration { return s.Wall }), Sync: median(samples, func(s sample) time.Duration { return s.Sync }),
		Read: median(samples, func(s sample) time.Duration { return s.Read }), CPU: median(samples, func(s sample) time.Duration { return s.CPU }),
		Memory: median(samples, func(s sample) int64 { return s.Memory }), Disk: median(samples, func(s sample) int64 { return s.Disk }),
		Requests: median(samples, func(s sample) int { return s.Requests }), Sent: median(samples, func(s sample) int64 { return s.Sent }),
	}
}

func median[T int | int64 | time.Duration](samples []sample, of func(sample) T) T {
	values := make([]T, 0, len(samples))
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func (r *shapeResult) text() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n%s: %s (%s)\n", r.Name, r.Title, humanize.IBytes(uint64(r.Bytes)))
	if w := r.Warm; w != nil {
		fmt.Fprintf(&b, "  %d publishes: p50 %s, p99 %s, max %s; %d requests to the registry; peak RSS %s\n",
			w.Publishes, w.P50.Round(10*time.Microsecond), w.P99.Round(10*time.Microsecond), w.Max.Round(10*time.Microsecond), w.Requests, humanize.IBytes(uint64(w.Memory)))
		return b.String()
	}
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "\twall\tmin\tmax\tsync\tread\tCPU\tpeak RSS\tdisk\trequests\tsent\tof best peer\t")
	for _, t := range r.Tools {
		if len(t.Samples) == 0 {
			_, _ = fmt.Fprintf(table, "%s\tfailed\t\t\t\t\t\t\t\t\t\t\t\n", t.Name)
			continue
		}
		least := slices.MinFunc(t.Samples, func(a, b sample) int { return int(a.Wall - b.Wall) })
		most := slices.MaxFunc(t.Samples, func(a, b sample) int { return int(a.Wall - b.Wall) })
		m := t.Median
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%.2f\t\n", t.Name, seconds(m.Wall), seconds(least.Wall), seconds(most.Wall),
			seconds(m.Sync), seconds(m.Read), seconds(m.CPU), size(m.Memory), size(m.Disk), m.Requests, size(m.Sent), t.OfBestPeer)
	}
	_ = table.Flush()
	if r.OfLimits > 0 {
		fmt.Fprintf(&b, "  model-csi takes %.2f of the longer one of sha256 and save\n", r.OfLimits)
	}
	for _, t := range r.Tools {
		if len(t.Errors) > 0 {
			fmt.Fprintf(&b, "  %s failed %d times: %s\n", t.Name, len(t.Errors), t.Errors[0])
		}
	}
	return b.String()
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func size(n int64) string {
	if n == 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "bench.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "bench.svg"), r.chart(), 0o644),
	)
}
