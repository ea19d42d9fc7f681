package hub

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // what git calls its objects
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

const (
	// maxPage bounds one answer of the API. A page of a thousand files takes about 400 KiB; a mirror that does not know
	// how to leave out what was not asked for describes a whole repository in a few MiB.
	maxPage = 16 << 20
	// maxPages bounds the pages of one listing, most of which can be full of directories.
	maxPages = 2000
	// plainAtOnce is how many small files are fetched at once; each may hold keptContent in memory.
	plainAtOnce = 8
)

// list pins the revision and lists its commit. Two callers who want the same commit list it once.
func (r *repository) list(ctx context.Context) (*listing, error) {
	commit, err := r.pin(ctx)
	if err != nil {
		return nil, err
	}
	key := listingKey{r.key, commit}
	unlock, err := r.source.building.lock(ctx, key)
	if err != nil {
		f := r.subject("commit "+commit).fail(model.ErrUnavailable, "gave up waiting for its listing", "")
		f.Cause = err
		return nil, f
	}
	defer unlock()
	l, ok := r.source.listings.get(key)
	if !ok {
		if l, err = r.build(ctx, commit); err != nil {
			return nil, err
		}
		r.source.listings.put(key, l, int64(len(l.manifest)))
		r.source.byDigest.put(contentKey{r.key, l.digest}, l, int64(len(l.manifest)))
	}
	return l, nil
}

// pin asks which commit the revision is.
func (r *repository) pin(ctx context.Context) (string, error) {
	s := r.subject(fmt.Sprintf("revision %q", r.revision))
	var commit string
	f := wire.Retry(ctx, r.source.firstPause, func() *wire.Failure {
		body, _, f := r.read(ctx, s, r.api("expand=sha", "revision", r.revision), maxPage)
		if f != nil {
			return f
		}
		var err error
		if commit, err = parseCommit(body); err != nil {
			return s.wrap(fmt.Errorf("%s answers what is no description of a repository: %w", r.base.Host, err))
		}
		if commitPattern.MatchString(r.revision) && commit != r.revision {
			return s.fail(model.ErrCorrupt, fmt.Sprintf("%s answers with commit %s", r.base.Host, commit), "")
		}
		return nil
	})
	if f != nil {
		return "", f.Err()
	}
	return commit, nil
}

// build lists the files of a commit and finds out the digests that the listing lacks.
func (r *repository) build(ctx context.Context, commit string) (*listing, error) {
	s := r.subject("commit " + commit)
	entries, err := r.entries(ctx, s, commit)
	if err != nil {
		return nil, err
	}
	if err := r.plain(ctx, commit, entries); err != nil {
		return nil, err
	}
	files := make([]file, len(entries))
	for i, e := range entries {
		files[i] = file{Path: e.path, Size: e.size, SHA256: e.digest.Encoded()}
	}
	l, err := newListing(r.ref.Repository, commit, files)
	if err != nil {
		return nil, s.wrap(err)
	}
	return l, nil
}

// entries reads all pages of the listing.
func (r *repository) entries(ctx context.Context, s subject, commit string) ([]entry, error) {
	var out []entry
	const first = "recursive=true&expand=false"
	seen := map[string]bool{}
	for query := first; query != ""; {
		if seen[query] || len(seen) == maxPages {
			return nil, s.fail(model.ErrInvalid, fmt.Sprintf("%s lists it in pages that come again or have no end", r.base.Host), "").Err()
		}
		seen[query] = true
		var page []entry
		var next string
		f := wire.Retry(ctx, r.source.firstPause, func() *wire.Failure {
			body, header, f := r.read(ctx, s, r.api(query, "tree", commit), maxPage)
			if f != nil {
				return f
			}
			var err error
			if page, err = parsePage(body); err == nil {
				next, err = nextPage(header)
			}
			if err != nil {
				return s.wrap(err)
			}
			return nil
		})
		if f != nil {
			return nil, f.Err()
		}
		out, query = append(out, page...), next
		if most := r.source.options.MaxFiles; len(out) > most {
			return nil, s.fail(model.ErrTooLarge, fmt.Sprintf("it has more than %d files", most), "use a repository that packs them into archives").Err()
		}
	}
	return out, nil
}

// plain finds out the digests of files that are not in LFS: by an earlier reading of the same git object, else by
// reading them.
func (r *repository) plain(ctx context.Context, commit string, entries []entry) error {
	s := r.subject("commit " + commit)
	var total int64
	for _, e := range entries {
		if e.digest != "" {
			continue
		}
		if e.size > r.source.maxPlainFile {
			return s.fail(model.ErrTooLarge, fmt.Sprintf("file %.300q has %d bytes outside of LFS, more than the %d that are read to learn a digest", e.path, e.size, r.source.maxPlainFile), "put it into LFS").Err()
		}
		if total += e.size; total > r.source.maxPlain {
			return s.fail(model.ErrTooLarge, fmt.Sprintf("it has more than %d bytes outside of LFS, which are read to learn their digests", r.source.maxPlain), "put large files into LFS").Err()
		}
	}
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(plainAtOnce)
	for i := range entries {
		e := &entries[i]
		if e.digest != "" {
			continue
		}
		key := sumKey{r.key, e.oid, e.size}
		if d, ok := r.source.sums.get(key); ok {
			e.digest = d
			continue
		}
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			f := wire.Retry(ctx, r.source.firstPause, func() *wire.Failure { return r.hash(ctx, commit, e) })
			if f != nil {
				return f.Err()
			}
			r.source.sums.put(key, e.digest, 1)
			return nil
		})
	}
	err := group.Wait()
	if err == nil && outer.Err() != nil {
		err = s.network(outer, r.base.Host, outer.Err())
	}
	return err
}

// hash reads a file, compares it with its name in git, and sets its digest.
func (r *repository) hash(ctx context.Context, commit string, e *entry) *wire.Failure {
	s := r.subject(fmt.Sprintf("file %.300q", e.path))
	object, sum := sha1.New(), sha256.New() //nolint:gosec // the listing has nothing else
	fmt.Fprintf(object, "blob %d\x00", e.size)
	var content bytes.Buffer
	if e.size > 0 {
		to := io.MultiWriter(object, sum)
		if e.size <= keptContent {
			to = io.MultiWriter(object, sum, &content)
		}
		if f := r.copy(ctx, s, commit, e, to); f != nil {
			return f
		}
	}
	if actual := hex.EncodeToString(object.Sum(nil)); actual != e.oid {
		return s.fail(model.ErrCorrupt, fmt.Sprintf("%s sent the git object %s instead of %s", r.base.Host, actual, e.oid), "")
	}
	if isPointer(content.Bytes()) {
		return s.fail(model.ErrUnsupported, "it is a Git LFS pointer, and the Hub does not have what it points to", "push the file's content with git lfs push, or delete the pointer")
	}
	e.digest = digest.NewDigest(digest.SHA256, sum)
	if e.size <= keptContent {
		r.source.contents.put(contentKey{r.key, e.digest}, content.Bytes(), e.size)
	}
	return nil
}

// copy writes a whole file to w. Neither less nor more than its size is accepted.
func (r *repository) copy(ctx context.Context, s subject, commit string, e *entry, w io.Writer) *wire.Failure {
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, r.source.readTimeout, wire.ErrSlow)
	defer cancel()
	resp, f := r.get(ctx, s, r.file(commit, e.path), http.Header{"Accept": {"*/*"}, "Accept-Encoding": {"identity"}})
	if f != nil {
		return wire.Slow(outer, ctx, s.fail, f)
	}
	defer wire.Drain(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return s.status(resp.reply())
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, e.size+1))
	switch {
	case err != nil:
		return wire.Slow(outer, ctx, s.fail, s.broken(ctx, resp.url.Host, err))
	case n != e.size:
		return s.fail(model.ErrCorrupt, fmt.Sprintf("%s sent %s, the listing says %d bytes", resp.url.Host, sent(n, e.size), e.size), "")
	}
	return nil
}

func sent(n, limit int64) string {
	if n > limit {
		return "more"
	}
	return fmt.Sprintf("%d bytes", n)
}
