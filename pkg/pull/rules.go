package pull

import (
	"errors"
	"fmt"
	"sync"

	"github.com/model-csi/model-csi/pkg/model"
)

// Rules are what the operator of the node allows the namespaces of callers. They are asked before anybody else is, for
// every reference that a request leads to, cached or not. Implementations are safe for concurrent use and return at
// once.
type Rules interface {
	// Check is nil when callers of the namespace may use what the reference names. Its error is a model.ErrDenied, or a
	// model.ErrUnavailable while that cannot be decided, and says what a person has to do. It may have a method
	// Reason() string with a word for the Observer.
	Check(namespace string, ref model.Ref) error
	// Limits of the namespace.
	Limits(namespace string) Limits
}

// Limits bound what a namespace may have. Zero means no limit.
type Limits struct {
	// ModelSize in bytes, and Files, are of one tree.
	ModelSize int64
	Files     int
	// Share is what the namespace may hold in the cache at the same time, in bytes.
	Share int64
}

// What an Observer is told about a refusal by Limits.
const (
	refusedSize  = "model-size"
	refusedFiles = "files"
	refusedShare = "share"
)

// allowed asks the rules about one reference.
func (p *Puller) allowed(r Request) error {
	if p.opts.Rules == nil {
		return nil
	}
	err := p.opts.Rules.Check(r.Namespace, r.Ref)
	if err == nil {
		return nil
	}
	why := "other"
	if word := interface{ Reason() string }(nil); errors.As(err, &word) {
		why = word.Reason()
	}
	p.opts.Observer.Refused(why)
	return err
}

// admission is what the rules' limits mean for one call of Pull.
type admission struct {
	puller  *Puller
	request Request
	job     *job
	limits  Limits
	stake   *stake
	// admitted says that the result is with the caller, who ends what is held for it.
	admitted bool
}

// admission begins an admission. The caller calls leave on it.
func (p *Puller) admission(r Request, j *job) *admission {
	a := &admission{puller: p, request: r, job: j}
	if p.opts.Rules != nil {
		a.limits = p.opts.Rules.Limits(r.Namespace)
	}
	a.stake = p.shares.enter(r, j.key, a.limits.Share)
	return a
}

// leave ends what was held, unless there is a result.
func (a *admission) leave() {
	if !a.admitted {
		a.stake.leave()
	}
}

// result decides about a result that is ready. It then counts for the caller's namespace until it is released.
func (a *admission) result(result *Result) (*Result, error) {
	err := a.within(bytesOf(result.Tree), len(result.Tree))
	if err == nil {
		err = a.stake.tree(result.Tree)
	}
	if err != nil {
		result.Release()
		return nil, fmt.Errorf("%s: %w", a.request.Ref, err)
	}
	unpin := result.release
	a.admitted = true
	result.release = sync.OnceFunc(func() {
		unpin()
		a.stake.leave()
	})
	return result, nil
}

// pull decides about a pull before it begins, or is joined, by what its layers say. What archives hold is known when
// they are there.
func (a *admission) pull() error {
	needed := a.job.needed()
	err := a.within(sum(needed), len(needed))
	if err == nil {
		err = a.stake.layers(needed)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", a.request.Ref, err)
	}
	return nil
}

// within fails with model.ErrTooLarge for more bytes or files than the namespace may have in one model.
func (a *admission) within(bytes int64, files int) error {
	l := a.limits
	switch {
	case l.ModelSize > 0 && bytes > l.ModelSize:
		a.puller.opts.Observer.Refused(refusedSize)
		return fmt.Errorf("the model has %s, more than the %s that the operator's policy allows %s (maxModelSize): %w",
			size(bytes), size(l.ModelSize), a.request.who(), model.ErrTooLarge)
	case l.Files > 0 && files > l.Files:
		a.puller.opts.Observer.Refused(refusedFiles)
		return fmt.Errorf("the model has %d files, more than the %d that the operator's policy allows %s (maxFiles): %w",
			files, l.Files, a.request.who(), model.ErrTooLarge)
	}
	return nil
}

func bytesOf(t model.Tree) int64 {
	var n int64
	for _, b := range t.Blobs() {
		n += b.Size
	}
	return n
}

// who names the caller's namespace.
func (r Request) who() string {
	if r.Namespace == "" {
		return "pods whose namespace is not known"
	}
	return "namespace " + r.Namespace
}
