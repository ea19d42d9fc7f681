package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/model-csi/model-csi/pkg/pull"
)

// transfer is how far one file, or all of them together, is. The total is named "".
type transfer struct {
	name        string
	done, total int64
}

// plainEvery is how often progress is told where there is no terminal.
const plainEvery = 10 * time.Second

// showProgress shows what poll tells until the returned function is called: bars on a terminal, a line now and then
// elsewhere, nothing when quiet.
func showProgress(w io.Writer, quiet bool, poll func() []transfer) (stop func()) {
	if quiet {
		return func() {}
	}
	ended, gone := make(chan struct{}), make(chan struct{})
	show := plainLines
	if isTerminal(w) {
		show = bars
	}
	go func() {
		defer close(gone)
		show(w, poll, ended)
	}()
	return sync.OnceFunc(func() {
		close(ended)
		<-gone
	})
}

// isTerminal reports whether a person looks at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

func plainLines(w io.Writer, poll func() []transfer, ended <-chan struct{}) {
	every(plainEvery, ended, func() {
		for _, t := range poll() {
			if t.name == "" && t.total > 0 {
				_, _ = fmt.Fprintf(w, "%s of %s (%d%%)\n", bytesText(t.done), bytesText(t.total), t.done*100/t.total)
			}
		}
	})
}

// every calls do until ended is closed.
func every(pause time.Duration, ended <-chan struct{}, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			do()
		}
	}
}

// bars draws the total, and above it the files that are on their way. At the end nothing of it is left on the screen.
func bars(w io.Writer, poll func() []transfer, ended <-chan struct{}) {
	d := drawing{pool: mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(refresh), mpb.WithWidth(40)), bars: map[string]*mpb.Bar{}}
	defer d.pool.Wait()
	last := time.Now()
	draw := func() {
		now := time.Now()
		d.draw(poll(), now.Sub(last))
		last = now
	}
	draw()
	every(refresh, ended, draw)
	d.draw(nil, 0)
}

const (
	// refresh is as often as an eye sees a difference.
	refresh = 120 * time.Millisecond
	// atMost is how many files are shown at once: more than fit on a screen help nobody.
	atMost = 8
	// longestName is what of a path is shown, its end.
	longestName = 40
	// speedAge is over how many refreshes the speed is smoothed: some ten seconds.
	speedAge = 80
)

// drawing is what is on the screen.
type drawing struct {
	pool *mpb.Progress
	bars map[string]*mpb.Bar
}

// draw shows the transfers, and no others. took is the time since the last call.
func (d *drawing) draw(transfers []transfer, took time.Duration) {
	now := map[string]bool{}
	for _, t := range transfers {
		bar := d.bars[t.name]
		if t.total <= 0 || bar == nil && t.name != "" && len(d.bars) > atMost {
			continue
		}
		now[t.name] = true
		if bar == nil {
			bar = newBar(d.pool, t)
			d.bars[t.name] = bar
			bar.SetCurrent(t.done) // what was there before is no speed
		}
		bar.SetTotal(t.total, false)
		bar.EwmaSetCurrent(t.done, took)
	}
	for name, bar := range d.bars {
		if !now[name] {
			bar.Abort(true)
			delete(d.bars, name)
		}
	}
}

// newBar has no total yet, so that it does not end by itself.
func newBar(pool *mpb.Progress, t transfer) *mpb.Bar {
	name, priority := t.name, 0
	if name == "" {
		name, priority = "total", 1
	}
	if len(name) > longestName {
		name = "..." + name[len(name)-longestName+3:]
	}
	return pool.AddBar(0, mpb.BarPriority(priority),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.CountersKibiByte("% .1f of % .1f", decor.WCSyncSpace)),
		mpb.AppendDecorators(decor.EwmaSpeed(decor.SizeB1024(0), "% .1f", speedAge, decor.WCSyncSpace),
			decor.Name(" "), decor.EwmaETA(decor.ET_STYLE_GO, speedAge, decor.WCSyncSpace)))
}

// transfersOf lists the blobs that a puller is bringing, and their sum with what has come before.
func transfersOf(p *pull.Puller) []transfer {
	var all transfer
	for _, r := range p.Running() {
		all.done += r.Done
		all.total += r.Total
	}
	transfers := p.Transfers()
	if all.total == 0 { // archives that are looked into are no pull
		for _, t := range transfers {
			all.done += t.Done
			all.total += t.Total
		}
	}
	out := make([]transfer, 0, len(transfers)+1)
	for _, t := range transfers {
		out = append(out, transfer{name: t.Name, done: t.Done, total: t.Total})
	}
	return append(out, all)
}
