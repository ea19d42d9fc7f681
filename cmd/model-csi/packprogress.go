package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/model-csi/model-csi/pkg/pack"
)

// packProgress keeps what the events of a push say, for those who draw it.
type packProgress struct {
	mu     sync.Mutex
	total  int64
	done   int64
	active map[string]transfer
}

func newPackProgress() *packProgress { return &packProgress{active: map[string]transfer{}} }

// observe is the Observer of a push.
func (p *packProgress) observe(e pack.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case pack.Started:
		p.total = e.Total
	case pack.Hashing:
		p.active[e.Path] = transfer{name: "hashing " + e.Path, done: e.Bytes, total: e.Total}
	case pack.Uploading:
		p.active[e.Path] = transfer{name: e.Path, done: e.Bytes, total: e.Total}
	case pack.Existed, pack.Mounted, pack.Uploaded:
		delete(p.active, e.Path)
		p.done += e.Total
	case pack.Finished:
		clear(p.active)
		p.done, p.total = e.Total, e.Total
	}
}

// poll lists what is under way, the total last.
func (p *packProgress) poll() []transfer {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := transfer{done: p.done, total: p.total}
	var out []transfer
	for _, t := range p.active {
		out = append(out, t)
		if !strings.HasPrefix(t.name, "hashing ") {
			sum.done += t.done
		}
	}
	slices.SortFunc(out, func(a, b transfer) int { return strings.Compare(a.name, b.name) })
	sum.done = min(sum.done, sum.total)
	return append(out, sum)
}

// summary is the last line that a person reads.
func summary(r pack.Result) string {
	text := fmt.Sprintf("%d files, %s: %s sent", r.Files, bytesText(r.Bytes), bytesText(r.Sent))
	if r.Mounted > 0 {
		text += fmt.Sprintf(", %s mounted from other repositories", bytesText(r.Mounted))
	}
	if r.Existing > 0 {
		text += fmt.Sprintf(", %s were there", bytesText(r.Existing))
	}
	return text
}
