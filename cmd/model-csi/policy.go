package main

import (
	"log/slog"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/policy"
	"github.com/model-csi/model-csi/pkg/pull"
)

// rules is the operator's policy as the puller asks it. It knows the size of the cache, of which a policy speaks in
// percent.
type rules struct {
	file *policy.File
	// capacity is the size of the cache in bytes.
	capacity func() (int64, error)
	log      *slog.Logger
}

// Check implements pull.Rules.
func (r rules) Check(namespace string, ref model.Ref) error { return r.file.Check(namespace, ref) }

// Limits implements pull.Rules.
func (r rules) Limits(namespace string) pull.Limits {
	l := r.file.Limits(namespace)
	out := pull.Limits{ModelSize: l.ModelSize, Files: l.Files, Share: l.Share.Bytes}
	if l.Share.Percent > 0 {
		size, err := r.capacity()
		if err != nil {
			r.log.Warn("size of the cache is not known, nothing more is admitted to the namespace's share", "namespace", namespace, "error", err)
		}
		out.Share = l.Share.Of(size)
	}
	return out
}

// openPolicy reads the policy; nil without a file.
func openPolicy(c config.Config, log *slog.Logger) *policy.File {
	if c.PolicyFile == "" {
		return nil
	}
	return policy.Open(c.PolicyFile, log)
}
