package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/model"
)

func newPrefetchCommand() *cobra.Command {
	var t target
	var f admin.Fetch
	var login, quiet bool
	cmd := &cobra.Command{
		Use:   "prefetch REFERENCE",
		Short: "Bring a model into the node's cache before a pod asks for it",
		Long: `Ask the daemon of this node to pull a model and to make it ready to mount. The daemon uses the credentials that the node
has; --login adds yours for the registry, from the docker config of whoever runs the command. A pod has to prove its own
right to the model all the same. With --pin the model stays until "model-csi cache unpin"; without it, it may be evicted
when space is needed and nothing uses it. When the command is interrupted the pull goes on for a while.`,
		Example: `  model-csi prefetch registry.example.com/models/qwen3:8b
  model-csi prefetch --pin --include '*.safetensors,*.json' hf://Qwen/Qwen3-8B`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Reference = args[0]
			if err := readable(f.Reference, f.Variant); err != nil {
				return err
			}
			return prefetch(cmd, t, f, login, quiet)
		},
	}
	t.bind(cmd)
	cmd.Flags().StringVar(&f.Variant, "variant", "", "which `entry` of an index: a platform (linux/arm64), labels (key=value,...) or \"image\"")
	cmd.Flags().StringSliceVar(&f.Include, "include", nil, "`patterns` of the files to fetch, as a volume's include; default all")
	cmd.Flags().StringSliceVar(&f.Exclude, "exclude", nil, "`patterns` of files to leave out, as a volume's exclude")
	cmd.Flags().BoolVar(&f.Keep, "pin", false, "protect the model from eviction")
	cmd.Flags().BoolVar(&login, "login", false, "let the daemon use your own login at the registry for this")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func prefetch(cmd *cobra.Command, t target, f admin.Fetch, login, quiet bool) error {
	if login {
		if err := addLogin(cmd, &f); err != nil {
			return err
		}
	}
	var at latest
	stop := showProgress(cmd.ErrOrStderr(), quiet, at.transfers)
	out, err := admin.NewClient(t.root).Fetch(cmd.Context(), f, at.set)
	stop()
	if cmd.Context().Err() != nil {
		return fmt.Errorf("interrupted; the daemon goes on for its pull-linger, and the same command joins it or goes on from there")
	}
	if err != nil {
		return err
	}
	return t.print(cmd.OutOrStdout(), out, func(w io.Writer) error {
		how := "fetched"
		if out.Warm {
			how = "was cached"
		}
		_, err := fmt.Fprintf(w, "%s %s: %d files, %s, %s\n", out.Reference, how, out.Files, bytesText(out.Bytes), out.Digest)
		return err
	})
}

// readable finds mistakes in what a person wrote before the daemon is asked.
func readable(reference, variant string) error {
	if _, err := model.ParseRef(reference); err != nil {
		return &usageError{err}
	}
	if _, err := model.ParseSelection(variant); err != nil {
		return usagef("--variant: %w", err)
	}
	return nil
}

// addLogin finds the person's own login for the registry.
func addLogin(cmd *cobra.Command, f *admin.Fetch) error {
	ref, err := model.ParseRef(f.Reference)
	if err != nil {
		return err
	}
	keys, err := logins()
	if err != nil {
		return err
	}
	credentials, err := keys.Credentials(cmd.Context(), ref)
	if err != nil {
		return err
	}
	for _, c := range credentials {
		if !c.Password.IsZero() {
			f.Username, f.Password = c.Username, c.Password.Reveal()
			return nil
		}
	}
	return fmt.Errorf("there is no login for %s; \"docker login %s\" or \"oras login %s\" makes one: %w", ref.Registry, ref.Registry, ref.Registry, model.ErrUnauthenticated)
}

// latest is the last progress that the daemon told.
type latest struct {
	mu sync.Mutex // guards p
	p  admin.Progress
}

func (l *latest) set(p admin.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.p = p
}

func (l *latest) transfers() []transfer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []transfer{{done: l.p.Done, total: l.p.Total}}
}
