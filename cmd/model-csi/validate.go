package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/dustin/go-humanize/english"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
)

// validation is the answer of validate.
type validation struct {
	Subject  string         `json:"subject"`
	Digest   digest.Digest  `json:"digest,omitempty"`
	Valid    bool           `json:"valid"`
	Findings []pack.Finding `json:"findings"`
}

type validateOptions struct {
	packFlags
	layout, tag string
	full        bool
	schemaFile  string
	schema      *pack.Schema
	plainHTTP   bool
	configDir   string
	output      string
}

func newValidateCommand() *cobra.Command {
	var o validateOptions
	cmd := &cobra.Command{
		Use:   "validate [DIRECTORY | REFERENCE]",
		Short: "Hold a model against the ModelPack specification",
		Long: `Hold a model against the ModelPack specification: the manifest and the config of an artifact in a registry or in an OCI
image layout, or a directory before it is packed. Each finding names a document and a field, or a file. Errors are what the
specification forbids, warnings what it advises against.

Of a directory, the headers of its weights are read: files that were not copied whole, and shards that are missing, are
errors. The exit code is 3 where there are errors.

The config is held against a JSON schema that is written after the newest text of the specification. --schema takes another
one instead, such as schema/config-schema.json of the release of the specification that your tools expect.`,
		Example: `  model-csi validate ./qwen3
  model-csi validate registry.example.com/models/qwen3:8b
  model-csi validate --layout ./qwen3-layout --full
  model-csi validate --schema ./config-schema.json registry.example.com/models/qwen3:8b`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.readSchema(); err != nil {
				return err
			}
			v, err := o.validate(cmd.Context(), args)
			if err != nil {
				return err
			}
			return o.report(cmd, v)
		},
	}
	o.bindScan(cmd)
	f := cmd.Flags()
	f.StringVar(&o.layout, "layout", "", "validate what an OCI image layout at this `directory` holds")
	f.StringVar(&o.tag, "tag", "", "`name` of the artifact in the layout (default: all)")
	f.BoolVar(&o.full, "full", false, "hash every blob of the layout")
	f.StringVar(&o.schemaFile, "schema", "", "`file` with the JSON schema of another release of the specification, for the config")
	f.BoolVar(&o.plainHTTP, "plain-http", false, "speak to the registry without TLS; a registry on this machine needs no leave")
	f.StringVar(&o.configDir, "registry-config-dir", "", "`directory` of hosts.toml directories, as containerd has them, for mirrors, CAs and plain HTTP")
	bindOutput(cmd, &o.output)
	return cmd
}

// readSchema reads what --schema names.
func (o *validateOptions) readSchema() error {
	if o.schemaFile == "" {
		return nil
	}
	data, err := os.ReadFile(o.schemaFile)
	if err != nil {
		return usagef("--schema: %w", err)
	}
	if o.schema, err = pack.ReadSchema(data); err != nil {
		return usagef("--schema %s: %w", o.schemaFile, err)
	}
	return nil
}

// validate finds out what is meant: a layout, a directory, or a reference.
func (o *validateOptions) validate(ctx context.Context, args []string) (validation, error) {
	switch {
	case (o.layout == "") == (len(args) == 0):
		return validation{}, usagef("name one thing: a directory, a reference, or a layout with --layout")
	case o.layout != "":
		return o.ofLayout(o.layout)
	}
	if info, err := os.Stat(args[0]); err == nil && info.IsDir() {
		if pack.IsLayout(args[0]) {
			return o.ofLayout(args[0])
		}
		return o.ofDirectory(args[0])
	}
	return o.ofReference(ctx, args[0])
}

func (o *validateOptions) ofLayout(dir string) (validation, error) {
	found, err := pack.ValidateLayout(dir, o.tag, o.full, o.schema)
	return validation{Subject: dir, Findings: found}, err
}

func (o *validateOptions) ofDirectory(dir string) (validation, error) {
	p, err := o.read(dir)
	if err != nil {
		return validation{}, err
	}
	found := pack.Check(p.inventory, p.problems)
	// The digests of the layers are not known before the files are hashed, and their form is not in question.
	ids := slices.Repeat([]digest.Digest{digest.FromBytes(nil)}, len(p.inventory.Files))
	config, err := p.config.JSON(p.options.Names, ids)
	if err != nil {
		return validation{}, err
	}
	return validation{Subject: dir, Findings: append(found, pack.ValidateConfig(p.options.Names, config, o.schema)...)}, nil
}

func (o *validateOptions) ofReference(ctx context.Context, reference string) (validation, error) {
	ref, err := model.ParseRef(reference)
	if err != nil {
		return validation{}, usagef("%s is not a directory, and %w", reference, err)
	}
	if ref.Scheme != model.SchemeOCI {
		return validation{}, usagef("%s is not in an OCI registry; the specification is about artifacts there: %w", reference, model.ErrInvalid)
	}
	registries, err := terminalRegistries(o.configDir, o.plainHTTP)
	if err != nil {
		return validation{}, err
	}
	cred, err := terminalCredential(ctx, ref)
	if err != nil {
		return validation{}, err
	}
	repository, err := registries.Repository(ref, cred)
	if err != nil {
		return validation{}, err
	}
	s, err := repository.Resolve(ctx, model.Selection{Platform: "linux/" + runtime.GOARCH})
	if err != nil {
		return validation{}, err
	}
	return validation{Subject: ref.String(), Digest: s.Digest, Findings: pack.Validate(s.Manifest, s.Config, o.schema)}, nil
}

// report shows the findings, and fails where one is an error.
func (o *validateOptions) report(cmd *cobra.Command, v validation) error {
	errs := 0
	for _, f := range v.Findings {
		if f.Level == pack.LevelError {
			errs++
		}
	}
	v.Valid = errs == 0
	if v.Findings == nil {
		v.Findings = []pack.Finding{}
	}
	err := printResult(cmd.OutOrStdout(), o.output, v, func(w io.Writer) error {
		for _, f := range v.Findings {
			if _, err := fmt.Fprintln(w, f); err != nil {
				return err
			}
		}
		verdict := "valid"
		if !v.Valid {
			verdict = "not valid"
		}
		_, err := fmt.Fprintf(w, "%s: %s, %s and %s\n", v.Subject, verdict, english.Plural(errs, "error", ""), english.Plural(len(v.Findings)-errs, "warning", ""))
		return err
	})
	if err == nil && !v.Valid {
		return errFindings
	}
	return err
}
