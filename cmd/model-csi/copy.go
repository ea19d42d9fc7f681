package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// copyOptions are the flags of copy.
type copyOptions struct {
	lookOptions
	mountFrom []string
	jobs      int
}

// transferGiveUp is how long somebody at a terminal waits for a source that sends nothing any more.
const transferGiveUp = 10 * time.Minute

func newCopyCommand() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:     "copy SOURCE TARGET",
		Aliases: []string{"cp"},
		Short:   "Copy an artifact between registries or repositories, byte for byte",
		Long: `Copy an artifact to another repository or registry. Nothing is changed: the copy has the digest of the original. What the
target has already is not sent; within one registry blobs are mounted and not moved; everything else passes through this
machine without being stored, verified and several files at once.

An index is copied with all that it lists. With --variant one entry is selected, and that manifest alone is copied: the copy
then has the digest of the entry and not of the index. Signatures and other artifacts that refer to the original stay behind.`,
		Example: `  model-csi copy registry.example.com/models/qwen3:8b mirror.example.net/models/qwen3:8b
  model-csi copy registry.example.com/staging/qwen3@sha256:<digest> registry.example.com/models/qwen3:8b`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0], args[1]) },
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	cmd.Flags().StringArrayVar(&o.mountFrom, "mount-from", nil, "another `repository` of the target's registry whose blobs may be used (repeatable)")
	cmd.Flags().IntVarP(&o.jobs, "jobs", "j", 0, "how many blobs are copied at once (default 4, or the `number` of processors)")
	return cmd
}

func (o *copyOptions) run(cmd *cobra.Command, from, to string) error {
	source, target, err := registryRefs(from, to)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	registries, err := terminalRegistries(o.configDir, o.plainHTTP)
	if err != nil {
		return err
	}
	origin, err := newCopyOrigin(ctx, registries, source)
	if err != nil {
		return err
	}
	top, err := origin.top(ctx, o.variant)
	if err != nil {
		return err
	}
	places, err := o.places(ctx, registries, target)
	if err != nil {
		return err
	}
	options := pack.CopyOptions{Jobs: o.jobs}
	if options.MountFrom, err = mountSources(target, o.mountFrom); err != nil {
		return &usageError{err}
	}
	if source.Registry == target.Registry {
		options.MountFrom = append([]string{source.Repository}, options.MountFrom...)
	}
	progress := newPackProgress()
	options.Observer = progress.observe
	stop := showProgress(cmd.ErrOrStderr(), o.quiet, progress.poll)
	r, err := pack.Copy(ctx, origin, top, places, options)
	stop()
	if err != nil {
		return interrupted(ctx, err)
	}
	if !o.quiet {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), summary(r))
	}
	answer := packed{Reference: pushedAs(target, r.Digest), Result: r}
	return printResult(cmd.OutOrStdout(), o.output, answer, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, answer.Reference)
		return err
	})
}

// registryRefs reads the two references of a copy.
func registryRefs(from, to string) (source, target model.Ref, err error) {
	if source, err = model.ParseRef(from); err != nil {
		return source, target, &usageError{err}
	}
	if source.Scheme != model.SchemeOCI && source.Scheme != model.SchemeOllama {
		return source, target, usagef("%s is not in a registry, and copy changes nothing; \"model-csi import %s %s\" packs it anew: %w", source, from, to, model.ErrInvalid)
	}
	target, err = targetRef(to)
	return source, target, err
}

// targetRef reads a reference that something is pushed to.
func targetRef(to string) (model.Ref, error) {
	target, err := model.ParseRef(to)
	if err != nil {
		return target, &usageError{err}
	}
	if target.Scheme != model.SchemeOCI {
		return target, usagef("%s: models are pushed to OCI registries only: %w", to, model.ErrInvalid)
	}
	return target, nil
}

// places opens the target for a document: under its name for the whole, under its digest for what an index lists.
func (o *copyOptions) places(ctx context.Context, registries *registry.Source, target model.Ref) (func(digest.Digest) (pack.Target, error), error) {
	cred, err := terminalCredential(ctx, target)
	if err != nil {
		return nil, err
	}
	return func(d digest.Digest) (pack.Target, error) {
		ref := target
		if d != "" {
			ref.Tag, ref.Digest = "", d
		}
		return registries.Pusher(ref, cred, registry.PushOptions{})
	}, nil
}

// copyOrigin reads an artifact from a registry. It implements pack.Origin.
type copyOrigin struct {
	registries *registry.Source
	ref        model.Ref
	cred       model.Credential
	repository source.Repository
	engine     *ingest.Engine
}

func newCopyOrigin(ctx context.Context, registries *registry.Source, ref model.Ref) (*copyOrigin, error) {
	cred, err := terminalCredential(ctx, ref)
	if err != nil {
		return nil, err
	}
	repository, err := registries.Repository(ref, cred)
	if err != nil {
		return nil, err
	}
	engine := ingest.New(ingest.Options{Logger: slog.New(slog.DiscardHandler), GiveUp: transferGiveUp})
	return &copyOrigin{registries: registries, ref: ref, cred: cred, repository: repository, engine: engine}, nil
}

// top is what the reference names, or the entry of an index that is asked for.
func (o *copyOrigin) top(ctx context.Context, variant string) (pack.Document, error) {
	if variant != "" {
		want, err := model.ParseSelection(variant)
		if err != nil {
			return pack.Document{}, usagef("--variant: %w", err)
		}
		s, err := o.repository.Resolve(ctx, want)
		return pack.Document{Digest: s.Digest, MediaType: s.MediaType, Bytes: s.Manifest}, err
	}
	return o.read(ctx, o.ref)
}

// Document implements pack.Origin.
func (o *copyOrigin) Document(ctx context.Context, d digest.Digest) (pack.Document, error) {
	ref := o.ref
	ref.Tag, ref.Digest = "", d
	return o.read(ctx, ref)
}

func (o *copyOrigin) read(ctx context.Context, ref model.Ref) (pack.Document, error) {
	d, err := o.registries.Document(ctx, ref, o.cred)
	return pack.Document{Digest: d.Digest, MediaType: d.MediaType, Bytes: d.Bytes}, err
}

// Open implements pack.Origin.
func (o *copyOrigin) Open(ctx context.Context, b model.Blob) func(int64) (io.ReadCloser, error) {
	passing := o.engine.Pass(ingest.Job{Blob: b, Host: o.ref.Registry, Open: func(ctx context.Context, offset, length int64) (ingest.Body, error) {
		body, err := o.repository.ReadRange(ctx, b, offset, length)
		if errors.Is(err, source.ErrRange) {
			err = fmt.Errorf("%w: %w", ingest.ErrNoRanges, err)
		}
		return ingest.Body{ReadCloser: body.ReadCloser, Offset: body.Offset, Length: body.Length}, err
	}})
	return func(offset int64) (io.ReadCloser, error) { return passing.Open(ctx, offset) }
}

// interrupted says how to go on, where it was an interruption that ended a transfer to a registry.
func interrupted(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("interrupted; run the same command again to go on: files that have arrived are not sent again (%w)", context.Cause(ctx))
}
