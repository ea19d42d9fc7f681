package pull

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
)

// trackers know how far each running pull is. Blobs are counted once, whoever fetches them, and summed by model.
type trackers struct {
	mu     sync.Mutex // guards models and blobs
	models map[string]*tracker
	blobs  map[model.Blob]*counter
}

// counter is the progress of one blob that is on its way.
type counter struct {
	name    string
	size    int64
	bytes   atomic.Int64
	trouble atomic.Pointer[trouble]
}

type trouble struct {
	text string
	at   time.Time
}

// tracker is the progress of one model.
type tracker struct {
	all       *trackers
	reference string
	stop      chan struct{}

	mu      sync.Mutex // guards what follows
	total   int64
	waiting map[model.Blob]bool // the layers that are not there yet
	done    int64
	samples []sample // one a second, the last rateWindow of them
}

type sample struct {
	at    time.Time
	bytes int64
}

// rateWindow is how many seconds the shown speed looks back.
const rateWindow = 15

func (ts *trackers) start(key, reference string, layers []format.Layer) *tracker {
	t := &tracker{all: ts, reference: reference, stop: make(chan struct{}), waiting: make(map[model.Blob]bool)}
	t.expect(layers)
	ts.mu.Lock()
	if ts.models == nil {
		ts.models = make(map[string]*tracker)
	}
	ts.models[key] = t
	ts.mu.Unlock()
	go t.sample()
	return t
}

func (ts *trackers) end(key string, t *tracker) {
	close(t.stop)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.models[key] == t {
		delete(ts.models, key)
	}
}

func (ts *trackers) get(key string) *tracker {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.models[key]
}

func (ts *trackers) counter(l format.Layer) *counter {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	c := &counter{name: l.Path, size: l.Blob.Size}
	if c.name == "" {
		c.name = "layer " + l.Blob.Digest.Encoded()[:12]
	}
	if ts.blobs == nil {
		ts.blobs = make(map[model.Blob]*counter)
	}
	ts.blobs[l.Blob] = c
	return c
}

func (ts *trackers) forget(b model.Blob) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.blobs, b)
}

// expect adds layers to what the model waits for.
func (t *tracker) expect(layers []format.Layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range layers {
		if !t.waiting[l.Blob] {
			t.waiting[l.Blob] = true
			t.total += l.Blob.Size
		}
	}
}

func (t *tracker) finished(l format.Layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[l.Blob] {
		t.done += l.Blob.Size
		delete(t.waiting, l.Blob)
	}
}

func (t *tracker) sample() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		p := t.progress()
		t.mu.Lock()
		t.samples = append(t.samples, sample{time.Now(), p.Done})
		if len(t.samples) > rateWindow {
			t.samples = t.samples[1:]
		}
		t.mu.Unlock()
		select {
		case <-tick.C:
		case <-t.stop:
			return
		}
	}
}

// Progress is how far a running pull is.
type Progress struct {
	Reference string `json:"reference"`
	// Done and Total are in bytes, of what had to be fetched.
	Done  int64 `json:"doneBytes"`
	Total int64 `json:"totalBytes"`
	// Rate in bytes a second over the last seconds.
	Rate float64 `json:"bytesPerSecond"`
	// Trouble is what last went wrong and is being tried again; empty when bytes flow.
	Trouble string `json:"trouble,omitempty"`
}

// recentTrouble is how long ago a failure is still worth telling.
const recentTrouble = 2 * time.Minute

func (t *tracker) progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{Reference: t.reference, Done: t.done, Total: t.total}
	t.all.mu.Lock()
	var last *trouble
	for b := range t.waiting {
		if c := t.all.blobs[b]; c != nil {
			p.Done += min(max(c.bytes.Load(), 0), b.Size)
			if tr := c.trouble.Load(); tr != nil && (last == nil || tr.at.After(last.at)) {
				last = tr
			}
		}
	}
	t.all.mu.Unlock()
	if last != nil && time.Since(last.at) < recentTrouble {
		p.Trouble = last.text
	}
	if len(t.samples) > 0 {
		first := t.samples[0]
		if seconds := time.Since(first.at).Seconds(); seconds > 0.5 {
			p.Rate = max(0, float64(p.Done-first.bytes)/seconds)
		}
	}
	return p
}

// String is the sentence that a pod's events show, for example:
//
//	pulling registry.example.com/m/qwen3:8b: 43% (6.9 of 16 GiB, 412 MiB/s, about 23s left)
func (p Progress) String() string {
	percent := 100
	if p.Total > 0 {
		percent = int(p.Done * 100 / p.Total)
	}
	s := fmt.Sprintf("pulling %s: %d%% (%s of %s", p.Reference, percent, size(p.Done), size(p.Total))
	if p.Rate >= 1 {
		s += fmt.Sprintf(", %s/s", humanize.IBytes(uint64(p.Rate)))
		left := time.Duration(float64(p.Total-p.Done) / p.Rate * float64(time.Second))
		s += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	s += ")"
	if p.Trouble != "" {
		s += "; last trouble: " + p.Trouble
	}
	return s
}

// Running lists the pulls under way, by reference.
func (p *Puller) Running() []Progress {
	p.running.mu.Lock()
	all := make([]*tracker, 0, len(p.running.models))
	for _, t := range p.running.models {
		all = append(all, t)
	}
	p.running.mu.Unlock()
	out := make([]Progress, 0, len(all))
	for _, t := range all {
		out = append(out, t.progress())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Reference < out[j].Reference })
	return out
}

// Transfer is a blob that is on its way.
type Transfer struct {
	// Name is the path of the file, or that of an archive where it has one, else names the layer.
	Name string
	// Done and Total are in bytes.
	Done, Total int64
}

// Transfers lists the blobs that are on their way, by name. Bytes that a broken transfer had before are part of Done.
func (p *Puller) Transfers() []Transfer {
	p.running.mu.Lock()
	defer p.running.mu.Unlock()
	out := make([]Transfer, 0, len(p.running.blobs))
	for _, c := range p.running.blobs {
		out = append(out, Transfer{Name: c.name, Done: min(max(c.bytes.Load(), 0), c.size), Total: c.size})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// progressError is what a caller gets whose patience ended.
func (p *Puller) progressError(j *job) error {
	if t := p.running.get(j.key); t != nil {
		progress := t.progress()
		progress.Reference = j.title() // another caller may have begun the pull under another name
		return fmt.Errorf("%s: %w", progress, model.ErrPulling)
	}
	return fmt.Errorf("pulling %s: %w", j.title(), model.ErrPulling)
}
