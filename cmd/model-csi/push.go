package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// pushOptions are the flags of push that say where the artifact goes.
type pushOptions struct {
	packFlags
	mountFrom []string
	chunk     string
	plainHTTP bool
	configDir string
	output    string
	quiet     bool
}

// packed is the answer of push and pack.
type packed struct {
	Reference string `json:"reference,omitempty"`
	Layout    string `json:"layout,omitempty"`
	pack.Result
	Skipped []pack.Skipped `json:"skipped,omitempty"`
}

func newPushCommand() *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push DIRECTORY REFERENCE",
		Short: "Push a directory to a registry as a model",
		Long: `Push a directory to a registry as a CNCF ModelPack artifact, one layer for each file. Files are read where they lie, hashed
and sent several at once; what the registry has already is not sent, also where another repository has it and the registry
finds it there by itself or by --mount-from. The same directory gives the same digest.

The config of the artifact is filled in from the files themselves: the headers of safetensors and GGUF files, config.json,
the tokenizer's settings and the model card tell family, architecture, parameters, precision, quantization, capabilities,
languages and licenses. --set overrules them.

A file .modelignore at the top of the directory names what is left out, in the syntax of .gitignore. Hidden files and
compiled Python are left out anyway. Symbolic links are packed as what they lead to.

The last line on standard output is the reference with its digest. When the push is interrupted, run the same command
again: files that arrived are not sent again.`,
		Example: `  model-csi push ./qwen3 registry.example.com/models/qwen3:8b
  model-csi push --set version=1.2 --set licenses=Apache-2.0 ./tuned registry.example.com/models/tuned:v1.2
  model-csi push --archive doc=tar+gzip --category '*.txt=dataset' ./corpus registry.example.com/models/corpus:v1
  model-csi push --mount-from models/qwen3 ./qwen3-lora registry.example.com/models/qwen3-lora:v1`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0], args[1]) },
	}
	o.bind(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.mountFrom, "mount-from", nil, "`repository` of the same registry whose blobs may be used instead of sending them (repeatable)")
	f.StringVar(&o.chunk, "chunk-size", "", "send blobs in requests of at most this `size`, for registries behind proxies that limit it (default: a blob a request)")
	f.BoolVar(&o.plainHTTP, "plain-http", false, "speak to the registry without TLS; a registry on this machine needs no leave")
	f.StringVar(&o.configDir, "registry-config-dir", "", "`directory` of hosts.toml directories, as containerd has them, for CAs, headers and plain HTTP")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	bindOutput(cmd, &o.output)
	return cmd
}

func (o *pushOptions) run(cmd *cobra.Command, dir, reference string) error {
	ref, err := targetRef(reference)
	if err != nil {
		return err
	}
	p, err := o.read(dir)
	if err != nil {
		return err
	}
	if p.options.MountFrom, err = mountSources(ref, o.mountFrom); err != nil {
		return &usageError{err}
	}
	target, err := o.target(cmd.Context(), ref)
	if err != nil {
		return err
	}
	if err := o.announce(cmd.ErrOrStderr(), o.quiet, p); err != nil {
		return err
	}
	r, err := pushWithProgress(cmd, o.quiet, p, target)
	if err != nil {
		return err
	}
	answer := packed{Reference: pushedAs(ref, r.Digest), Result: r, Skipped: p.inventory.Skipped}
	return printResult(cmd.OutOrStdout(), o.output, answer, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, answer.Reference)
		return err
	})
}

// pushedAs is the reference under which the artifact can be pulled from now on.
func pushedAs(ref model.Ref, d digest.Digest) string {
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = ref.Reference()
	}
	return ref.Pinned(d).String()
}

// commitTimeout is how long a registry may take to commit a blob: those on object storage copy all of it.
const commitTimeout = 20 * time.Minute

// terminalRegistries serve a person at a terminal.
func terminalRegistries(configDir string, plainHTTP bool) (*registry.Source, error) {
	return registry.New(registry.Options{
		ConfigDir: configDir, PlainHTTP: plainHTTP, Select: selectManifest, Interactive: true,
		HeaderTimeout: commitTimeout, UserAgent: "model-csi/" + buildVersion(),
	})
}

// terminalCredential is the person's login for a reference; anonymous when there is none.
func terminalCredential(ctx context.Context, ref model.Ref) (model.Credential, error) {
	keys, err := logins()
	if err != nil {
		return model.Credential{}, err
	}
	list, err := keys.Credentials(ctx, ref)
	if err != nil || len(list) == 0 {
		return model.Credential{}, err
	}
	return list[0], nil
}

func (o *pushOptions) target(ctx context.Context, ref model.Ref) (pack.Target, error) {
	var chunk config.Bytes
	if o.chunk != "" {
		var err error
		if chunk, err = config.ParseBytes(o.chunk); err != nil {
			return nil, usagef("--chunk-size: %w", err)
		}
	}
	registries, err := terminalRegistries(o.configDir, o.plainHTTP)
	if err != nil {
		return nil, err
	}
	cred, err := terminalCredential(ctx, ref)
	if err != nil {
		return nil, err
	}
	return registries.Pusher(ref, cred, registry.PushOptions{Chunk: int64(chunk)})
}

// mountSources takes repositories with or without the registry in front, which must be that of ref.
func mountSources(ref model.Ref, names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		full := name
		if host, _, _ := strings.Cut(name, "/"); !strings.ContainsAny(host, ".:") && host != "localhost" {
			full = ref.Registry + "/" + name
		}
		from, err := model.ParseRef(full)
		if err != nil {
			return nil, fmt.Errorf("--mount-from: %w", err)
		}
		if from.Registry != ref.Registry {
			return nil, fmt.Errorf("--mount-from %s: blobs can be mounted within one registry only, and this is another than %s: %w", name, ref.Registry, model.ErrInvalid)
		}
		out = append(out, from.Repository)
	}
	return out, nil
}

// pushWithProgress packs, and says how to go on where that is interrupted.
func pushWithProgress(cmd *cobra.Command, quiet bool, p packing, target pack.Target) (pack.Result, error) {
	progress := newPackProgress()
	p.options.Observer = progress.observe
	stop := showProgress(cmd.ErrOrStderr(), quiet, progress.poll)
	r, err := pack.Push(cmd.Context(), p.inventory, p.config, target, p.options)
	stop()
	if err != nil {
		return r, interrupted(cmd.Context(), err)
	}
	if !quiet {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), summary(r))
	}
	return r, nil
}
