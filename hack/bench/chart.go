package main

import (
	"bytes"
	"fmt"
	"html"
)

// chart draws the median wall times as horizontal bars, a group for each shape, each group on its own scale: the times of
// different shapes say nothing about each other.
func (r *report) chart() []byte {
	const (
		width, left, right  = 900, 130, 110
		bar, gap, head, pad = 16, 4, 34, 18
	)
	colours := map[string]string{"model-csi": "#1a7f5a", "oras": "#7f8fa6", "crane": "#a0aec0", "containerd": "#5a6b86"}
	var b bytes.Buffer
	y := pad
	text := func(x, y int, anchor, style, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="%s" style="%s">%s</text>`+"\n", x, y, anchor, style, html.EscapeString(s))
	}
	for _, s := range r.Shapes {
		var longest float64
		for _, t := range s.Tools {
			longest = max(longest, t.Median.Wall.Seconds())
		}
		if longest == 0 {
			continue
		}
		y += head
		text(left, y-10, "start", "font-weight:600", s.Title)
		for _, t := range s.Tools {
			text(left-8, y+bar-4, "end", "", t.Name)
			if len(t.Samples) == 0 {
				text(left+4, y+bar-4, "start", "fill:#b03a2e", "failed")
			} else {
				length := int(t.Median.Wall.Seconds() / longest * (width - left - right))
				style := "fill:" + colours[t.Name]
				if t.Reference {
					style = "fill:none;stroke:#a0aec0;stroke-dasharray:3 2"
				}
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" style="%s"/>`+"\n", left, y, max(length, 1), bar, style)
				text(left+length+6, y+bar-4, "start", "", fmt.Sprintf("%.2f s", t.Median.Wall.Seconds()))
			}
			y += bar + gap
		}
	}
	y += pad
	text(left, y, "start", "fill:#666", fmt.Sprintf("Median of %d rounds, durable at the end; %d CPUs, %s. Dashed: physical limits, measured alone.", r.Rounds, r.Machine.CPUs, r.Machine.Filesystem))
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="#fff"/>
%s</svg>
`, width, y+pad, width, y+pad, b.String())
}
