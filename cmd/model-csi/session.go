package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

// lookOptions are the flags of the commands that read artifacts without a node.
type lookOptions struct {
	variant   string
	configDir string
	plainHTTP bool
	output    string
	quiet     bool
}

func (o *lookOptions) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.variant, "variant", "", "which `entry` of an index: a platform (linux/arm64), labels (key=value,...) or \"image\"")
	cmd.Flags().StringVar(&o.configDir, "registry-config-dir", "", "`directory` of hosts.toml directories, as containerd has them, for mirrors, CAs and plain HTTP")
	cmd.Flags().BoolVar(&o.plainHTTP, "plain-http", false, "speak to registries without TLS; a registry on this machine needs no leave")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
}

func bindOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`format` of the answer: text or json")
}

// session pulls on behalf of the person at the terminal, with their logins, into a store of its own.
type session struct {
	store  *store.Store
	puller *pull.Puller
	keys   model.Keychain
	want   model.Selection
}

// open begins a session whose store is at dir. Close ends it; what is in dir stays.
func (o *lookOptions) open(dir string, log *slog.Logger) (_ *session, err error) {
	s := &session{}
	if s.want, err = model.ParseSelection(o.variant); err != nil {
		return nil, usagef("--variant: %w", err)
	}
	// The disk is the person's own: nothing of it is kept free for others.
	if s.store, err = store.Open(dir, store.Options{Policy: store.Policy{ReserveBytes: 1}, Logger: log}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.store.Close())
		}
	}()
	grants, err := grant.Open(dir, grant.Options{})
	if err != nil {
		return nil, err
	}
	from, err := newModelSources(o.sources(), log)
	if err != nil {
		return nil, err
	}
	if s.keys, err = logins(); err != nil {
		return nil, err
	}
	s.puller = pull.New(pull.Options{
		Source: from.mux, Resolvers: from.resolvers, Store: s.store, Grants: grants, Logger: log,
		Engine: ingest.New(ingest.Options{Logger: log, GiveUp: transferGiveUp}),
	})
	return s, nil
}

// sources are where a person's models come from; HF_ENDPOINT is the word of huggingface_hub for another Hub.
func (o *lookOptions) sources() sourceOptions {
	return sourceOptions{
		configDir: o.configDir, plainHTTP: o.plainHTTP, interactive: true,
		hubEndpoint: os.Getenv("HF_ENDPOINT"), modelRegistryURL: os.Getenv("MODEL_REGISTRY_URL"),
	}
}

// Close ends everything that the session does.
func (s *session) Close() error {
	s.puller.Close()
	return s.store.Close()
}

// request asks for a reference as the person at the terminal.
func (s *session) request(reference string) (pull.Request, error) {
	ref, err := model.ParseRef(reference)
	if err != nil {
		err = &usageError{err}
	}
	return pull.Request{Ref: ref, Policy: pull.PolicyAlways, Want: s.want, Keychain: s.keys}, err
}

// look resolves a reference, hands it to do, and forgets what was fetched for it.
func (o *lookOptions) look(cmd *cobra.Command, reference string, do func(context.Context, *pull.Artifact) error) (err error) {
	dir, err := os.MkdirTemp("", "model-csi-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := o.open(dir, quietLogger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r, err := s.request(reference)
	if err != nil {
		return err
	}
	a, err := s.puller.Inspect(cmd.Context(), r)
	if err != nil {
		return err
	}
	return do(cmd.Context(), a)
}

// files hands the files below an optional path to do.
func (o *lookOptions) files(cmd *cobra.Command, args []string, do func(model.Tree) error) error {
	return o.look(cmd, args[0], func(ctx context.Context, a *pull.Artifact) error {
		tree, err := a.Tree(ctx)
		if err != nil {
			return err
		}
		if len(args) < 2 {
			return do(tree)
		}
		below := strings.Trim(args[1], "/")
		if _, ok := tree.Lookup(below); !ok {
			return fmt.Errorf("%s has no %q; \"model-csi ls %s\" lists what it has: %w", a.Ref, below, args[0], model.ErrNotFound)
		}
		var some model.Tree
		for _, f := range tree {
			if f.Path == below || strings.HasPrefix(f.Path, below+"/") {
				some = append(some, f)
			}
		}
		return do(some)
	})
}

// quietLogger drops what a daemon would log: at a terminal errors are returned and progress is shown.
func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }
