// Package telemetry counts what the node does, for Prometheus. It implements the small observers of other packages.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/model-csi/model-csi/pkg/pull"
)

// Metrics is the node's registry of metrics.
type Metrics struct {
	registry   *prometheus.Registry
	authorized *prometheus.CounterVec
	refused    *prometheus.CounterVec
	pulls      *prometheus.CounterVec
	bytes      prometheus.Counter
	seconds    prometheus.Histogram
}

var _ pull.Observer = (*Metrics)(nil)

// Sources are asked when the metrics are scraped. They must be cheap.
type Sources struct {
	// Pulls lists the pulls under way.
	Pulls func() []pull.Progress
	// Volumes counts the published volumes.
	Volumes func() int
	// PolicyCurrent reports whether the policy file as it is now is in force; nil without one.
	PolicyCurrent func() bool
}

const namespace = "model_csi"

// NewMetrics returns metrics of the process and the product; version labels its build.
func NewMetrics(version string, s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		authorized: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "authorizations_total",
			Help: "Decisions about access to models: valid (proven before), proven (the registry said yes now), grace (proven before, registry away), denied.",
		}, []string{"result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "policy_refusals_total",
			Help: "What the operator's policy refused, by reason: denied, not-allowed, no-policy, model-size, files, share.",
		}, []string{"reason"}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "pulls_total", Help: "Ended pulls that had to fetch something, by result.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "pulled_bytes_total", Help: "Bytes of the blobs that successful pulls had to fetch.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "pull_duration_seconds", Help: "Time of successful pulls that had to fetch something.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2.5, 12),
		}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "Always 1; the label tells the version."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	for _, result := range []string{"valid", "proven", "grace", "denied"} {
		m.authorized.WithLabelValues(result)
	}
	for _, reason := range []string{"denied", "not-allowed", "no-policy", "model-size", "files", "share"} {
		m.refused.WithLabelValues(reason)
	}
	for _, result := range []string{"ok", "error"} {
		m.pulls.WithLabelValues(result)
	}
	m.registry.MustRegister(m.authorized, m.refused, m.pulls, m.bytes, m.seconds, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("pulls_running", "Pulls under way.", func() float64 { return float64(len(s.Pulls())) }),
		gauge("pulls_running_bytes", "Bytes that the pulls under way have fetched.", func() float64 { return sum(s.Pulls(), func(p pull.Progress) int64 { return p.Done }) }),
		gauge("pulls_running_expected_bytes", "Bytes that the pulls under way have to fetch in all.", func() float64 { return sum(s.Pulls(), func(p pull.Progress) int64 { return p.Total }) }),
		gauge("volumes", "Published volumes.", func() float64 { return float64(s.Volumes()) }),
	)
	if s.PolicyCurrent != nil {
		m.registry.MustRegister(gauge("policy_current", "1 while the policy file is in force as it is now, 0 while it is broken.", func() float64 {
			if s.PolicyCurrent() {
				return 1
			}
			return 0
		}))
	}
	return m
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value)
}

func sum(pulls []pull.Progress, of func(pull.Progress) int64) float64 {
	var n int64
	for _, p := range pulls {
		n += of(p)
	}
	return float64(n)
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Authorized implements pull.Observer.
func (m *Metrics) Authorized(how string) { m.authorized.WithLabelValues(how).Inc() }

// Refused implements pull.Observer.
func (m *Metrics) Refused(why string) { m.refused.WithLabelValues(why).Inc() }

// Pulled implements pull.Observer.
func (m *Metrics) Pulled(bytes int64, took time.Duration, err error) {
	if err != nil {
		m.pulls.WithLabelValues("error").Inc()
		return
	}
	m.pulls.WithLabelValues("ok").Inc()
	m.bytes.Add(float64(bytes))
	m.seconds.Observe(took.Seconds())
}
