package policy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// rereadEvery is how soon a change is seen. Kubelet takes a minute or so to project a changed ConfigMap.
	rereadEvery = 5 * time.Second
	// maxFile is the size limit of a ConfigMap; a larger file is a mistake.
	maxFile = 1 << 20
)

// File is a policy that follows a file. A file that cannot be read or understood leaves the policy in force that was
// there before. Where there was none, everything is refused with model.ErrUnavailable until the file is mended: an
// operator who wants a policy does not want its absence, and a plugin that did not start could not unmount either. It
// is safe for concurrent use.
type File struct {
	path string
	log  *slog.Logger
	home string // the model registry of names without a host, in the form of plainHost

	mu     sync.Mutex // guards what follows
	policy *Policy    // in force; nil when there never was one
	text   []byte     // as last read
	err    error      // what is wrong with it
}

// Open reads the policy in the file at path. A file that is broken is logged and refuses everything; see File. A nil
// logger is slog.Default.
func Open(path string, log *slog.Logger) *File {
	if log == nil {
		log = slog.Default()
	}
	f := &File{path: path, log: log}
	f.Reload()
	return f
}

// ShortNames says that references to this model registry can be written without its host, so that patterns without a host
// are about it. It is called before Check is.
func (f *File) ShortNames(host string) { f.home = plainHost(strings.ToLower(host)) }

// Run looks for changes of the file until ctx ends. It returns nil.
func (f *File) Run(ctx context.Context) error {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.Reload()
		}
	}
}

// Reload looks at the file once.
func (f *File) Reload() {
	text, err := read(f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.err == nil && f.text != nil && bytes.Equal(text, f.text) {
		return
	}
	var next *Policy
	if err == nil {
		f.text = text
		next, err = Parse(text)
	}
	if err != nil {
		if f.err == nil || f.err.Error() != err.Error() {
			in := "the policy from before stays in force"
			if f.policy == nil {
				in = "every model is refused until the file is mended"
			}
			f.log.Error("policy file cannot be used", "file", f.path, "error", err, "consequence", in)
		}
		f.err = err
		return
	}
	f.log.Info("policy in force", "file", f.path, "namespaces", len(next.namespaces))
	f.policy, f.err = next, nil
}

// read never returns nil for a file that was read.
func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return append([]byte{}, text...), err
}

// Err is nil when the file as it is now is in force.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return nil
	}
	return fmt.Errorf("policy file %s: %w", f.path, f.err)
}

func (f *File) current() (*Policy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.policy == nil {
		return nil, f.err
	}
	return f.policy, nil
}

// Check is nil when pods of the namespace may use what the reference names, else a *Refusal.
func (f *File) Check(namespace string, ref model.Ref) error {
	p, err := f.current()
	if err != nil {
		return &Refusal{NoPolicy, fmt.Sprintf("%s: the node's plugin has no policy to ask, the operator has to mend %s: %.300v", ref, f.path, err)}
	}
	v := p.Decide(namespace, ref)
	if ref.Scheme == model.SchemeModelRegistry && ref.Registry != "" && plainHost(strings.ToLower(ref.Registry)) == f.home {
		short := ref
		short.Registry = ""
		v = v.or(p.Decide(namespace, short))
	}
	return v.Err()
}

// Limits of a namespace; none where Check refuses everything anyway.
func (f *File) Limits(namespace string) Limits {
	p, err := f.current()
	if err != nil {
		return Limits{}
	}
	return p.Limits(namespace)
}
