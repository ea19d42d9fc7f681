// Command bench measures model-csi against the tools that move the same bytes, side by side on one machine: from a real
// registry that serves from RAM, into emptied and synced destinations, in turns, until the bytes are durable. It prints a
// table, and writes JSON and a chart.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// options are the flags.
type options struct {
	binary string
	rounds int
	shapes []string
	tools  []string
	dir    string
	out    string
	docs   string
	from   string
	scale  float64
}

func main() {
	var o options
	var shapes, tools string
	flag.StringVar(&o.binary, "binary", "bin/model-csi", "the built `program`")
	flag.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	flag.StringVar(&shapes, "shapes", "", "comma-separated `names` of what to measure (default all: "+strings.Join(shapeNames(), ",")+")")
	flag.StringVar(&tools, "tools", "", "comma-separated `names` of tools to measure (default all: "+strings.Join(toolNames(), ",")+")")
	flag.StringVar(&o.dir, "dir", "", "`directory` on the disk to write to (default: the temporary directory)")
	flag.StringVar(&o.out, "out", "../dist/bench", "`directory` for bench.json and bench.svg")
	flag.StringVar(&o.docs, "docs", "", "`directory` with performance.md, to write the figures and the chart into")
	flag.StringVar(&o.from, "from", "", "bench.json `file` to write into -docs, instead of measuring")
	flag.Float64Var(&o.scale, "scale", 1, "factor on the size of all models, to try things out")
	flag.Parse()
	o.shapes, o.tools = list(shapes, shapeNames()), list(tools, toolNames())
	os.Exit(node.Isolated(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := run(ctx, o); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
}

func list(given string, all []string) []string {
	if given == "" {
		return all
	}
	return strings.Split(given, ",")
}

func run(ctx context.Context, o options) (err error) {
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	if o.out, err = filepath.Abs(o.out); err != nil {
		return err
	}
	if o.from != "" {
		return documentFrom(o.from, o.docs)
	}
	work, err := os.MkdirTemp(o.dir, "model-csi-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	tools, err := newTools(ctx, o, work)
	if err != nil {
		return err
	}
	report := newReport(o, work)
	for _, name := range o.shapes {
		s, ok := findShape(name)
		if !ok {
			return fmt.Errorf("shape %q is not known; there are %s", name, strings.Join(shapeNames(), ", "))
		}
		result, err := measure(ctx, o, s, tools, work)
		if err != nil {
			return fmt.Errorf("shape %s: %w", name, err)
		}
		report.Shapes = append(report.Shapes, result)
		fmt.Print(result.text())
		// What is there already is written after every shape: a long run may be cut short.
		if err := report.write(o.out); err != nil {
			return err
		}
	}
	if o.docs != "" {
		if err := report.document(o.docs); err != nil {
			return err
		}
	}
	fmt.Printf("\nwritten to %s: bench.json, bench.svg\n", o.out)
	return nil
}

// measure runs one shape: all tools in turns, as many rounds as were asked for.
func measure(ctx context.Context, o options, s shape, tools []tool, work string) (_ *shapeResult, err error) {
	r, err := registry.Start(registry.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	job, err := s.prepare(ctx, r, o.scale)
	if err != nil {
		return nil, err
	}
	job.base = filepath.Join(work, "destination")
	if s.disk > 0 {
		var disk *slowDisk
		if disk, err = newSlowDisk(work, 2*job.bytes+2*gib, s.disk); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, disk.Close()) }()
		job.base = filepath.Join(disk.dir, "destination")
	}
	defer func() { err = errors.Join(err, os.RemoveAll(job.base)) }()
	result := &shapeResult{Name: s.name, Title: s.title, Bytes: job.bytes}
	if s.custom != nil {
		return result, s.custom(ctx, o, job, result)
	}
	for round := range o.rounds {
		for i := range tools {
			// Everybody comes first in some round.
			t := tools[(i+round)%len(tools)]
			if s.takes != nil && !s.takes(t.name()) {
				continue
			}
			if l, ok := t.(*limit); ok && l.of != nil && !l.of(job) {
				continue
			}
			fmt.Fprintf(os.Stderr, "%s: round %d of %d: %s ...\n", s.name, round+1, o.rounds, t.name())
			sample, err := once(ctx, t, job)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			result.add(t, sample, err)
		}
	}
	result.finish(s.single)
	return result, nil
}
