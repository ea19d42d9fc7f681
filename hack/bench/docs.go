package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// The page of the documentation that shows the figures, and the marks between which they stand.
const (
	page        = "performance.md"
	picture     = "performance.svg"
	beginFigure = "<!-- begin figures: written by make bench-docs -->\n"
	endFigure   = "<!-- end figures -->\n"
)

// document writes the tables and the chart into a documentation directory.
func (r *report) document(dir string) error {
	file := filepath.Join(dir, page)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), beginFigure)
	_, after, ok2 := strings.Cut(rest, endFigure)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks for the figures", file)
	}
	return errors.Join(
		os.WriteFile(file, []byte(before+beginFigure+r.markdown()+endFigure+after), 0o644),
		os.WriteFile(filepath.Join(dir, picture), r.chart(), 0o644),
	)
}

// documentFrom does so with a report that was written before.
func documentFrom(file, dir string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return r.document(dir)
}

// markdown is the report as tables, one for each shape.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured %s on %d CPUs (%s), %s of memory, Linux %s, %s; median of %d rounds in turns.\n",
		r.Date.Format(time.DateOnly), r.Machine.CPUs, r.Machine.CPU, humanize.IBytes(r.Machine.Memory), r.Machine.Kernel, r.Machine.Filesystem, r.Rounds)
	for _, s := range r.Shapes {
		fmt.Fprintf(&b, "\n**%s** (`%s`, %s)\n\n", strings.ToUpper(s.Title[:1])+s.Title[1:], s.Name, humanize.IBytes(uint64(s.Bytes)))
		if w := s.Warm; w != nil {
			fmt.Fprintf(&b, "%d publishes: p50 %.1f ms, p99 %.1f ms, longest %.1f ms; %d requests to the registry; peak memory %s.\n",
				w.Publishes, ms(w.P50), ms(w.P99), ms(w.Max), w.Requests, humanize.IBytes(uint64(w.Memory)))
			continue
		}
		reads := false
		for _, t := range s.Tools {
			reads = reads || t.Median.Read > 0
		}
		b.WriteString("| tool | time | of the best peer | durable after |")
		rule := "| --- | ---: | ---: | ---: |"
		if reads {
			b.WriteString(" of it reading |")
			rule += " ---: |"
		}
		b.WriteString(" CPU | peak memory | disk | requests |\n" + rule + " ---: | ---: | ---: | ---: |\n")
		for _, t := range s.Tools {
			name := t.Name
			switch {
			case t.Name == "model-csi":
				name = "**model-csi**"
			case t.Reference:
				name = "*" + t.Name + "*"
			default:
				name += " " + t.Version
			}
			if len(t.Samples) == 0 {
				fmt.Fprintf(&b, "| %s | failed |%s\n", name, strings.Repeat(" |", strings.Count(rule, "|")+1))
				continue
			}
			m := t.Median
			fmt.Fprintf(&b, "| %s | %s | %s | %s |", name, seconds(m.Wall), ratio(t.OfBestPeer), seconds(m.Sync))
			if reads {
				fmt.Fprintf(&b, " %s |", seconds(m.Read))
			}
			fmt.Fprintf(&b, " %s | %s | %s | %d |\n", seconds(m.CPU), size(m.Memory), size(m.Disk), m.Requests)
		}
		if s.OfLimits > 0 {
			fmt.Fprintf(&b, "\nmodel-csi takes %.2f of the longer one of *sha256* and *save*.\n", s.OfLimits)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// ratio leaves out what there was nothing to compare with.
func ratio(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
