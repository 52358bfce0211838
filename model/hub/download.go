package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pipe/model/disk"
)

const (
	attempts = 4                // of one request
	maxWait  = 30 * time.Second // between attempts
)

// A download brings files of one commit into the cache: each into blobs/ETAG,
// by way of blobs/ETAG.incomplete, with a link from snapshots/COMMIT/NAME.
type download struct {
	r        *Resolver
	p        repo
	commit   string
	progress func(done, total int64)
	done     int64
}

func (d *download) snapshot() string {
	return filepath.Join(d.r.root(d.p), "snapshots", d.commit)
}

// A blob is a file with what identifies its content.
type blob struct {
	name, etag string
	size       int64
}

// all brings the files, reporting progress over all of them.
func (d *download) all(ctx context.Context, files ...remoteFile) error {
	var total int64
	blobs := make([]blob, len(files))
	for i, f := range files {
		b, err := d.identify(ctx, f)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", f.Name, d.p, err)
		}
		blobs[i] = b
		total += b.size
	}
	d.done = 0
	for _, b := range blobs {
		before := d.done
		if err := d.one(ctx, b, func(n int64) { d.progress(before+n, total) }); err != nil {
			return fmt.Errorf("download %s of %s: %w", b.name, d.p, err)
		}
		d.done = before + b.size
		d.progress(d.done, total)
	}
	return nil
}

// identify takes a file's hash and size from the listing or, from mirrors that
// leave them out, from the headers of the file.
func (d *download) identify(ctx context.Context, f remoteFile) (blob, error) {
	b := blob{name: f.Name, etag: f.BlobID, size: -1}
	if !safePath(f.Name) {
		return b, errors.New("the file name leaves its directory")
	}
	if f.Size != nil {
		b.size = *f.Size
	}
	if f.LFS != nil {
		b.etag, b.size = f.LFS.SHA256, f.LFS.Size
	}
	if b.etag == "" || b.size < 0 {
		res, err := d.r.get(ctx, d.p, http.MethodHead, d.url(f.Name), 0)
		if err != nil {
			return b, err
		}
		res.Body.Close()
		b.etag, b.size = headerID(res.Header, res.ContentLength)
	}
	if !etagName().MatchString(b.etag) || b.size < 0 {
		return b, fmt.Errorf("the hub gives no usable hash (%q) or size (%d)", b.etag, b.size)
	}
	return b, nil
}

func headerID(h http.Header, size int64) (etag string, n int64) {
	if etag = h.Get("X-Linked-Etag"); etag == "" {
		etag = h.Get("ETag")
	}
	if v, err := strconv.ParseInt(h.Get("X-Linked-Size"), 10, 64); err == nil {
		size = v
	}
	return strings.Trim(strings.TrimPrefix(etag, "W/"), `"`), size
}

func (d *download) url(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return fmt.Sprintf("%s/%s/resolve/%s/%s", d.r.endpoint(), d.p, d.commit, strings.Join(parts, "/"))
}

// one brings a blob and links it.
func (d *download) one(ctx context.Context, b blob, progress func(n int64)) error {
	root := d.r.root(d.p)
	path := filepath.Join(root, "blobs", b.etag)
	release, err := lock(ctx, filepath.Join(d.r.Cache, ".locks", filepath.Base(root), b.etag+".lock"))
	if err != nil {
		return err
	}
	defer release()
	if info, err := os.Stat(path); err != nil || info.Size() != b.size {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := d.bring(ctx, b, path, progress); err != nil {
			return err
		}
	}
	return link(path, filepath.Join(d.snapshot(), filepath.FromSlash(b.name)))
}

// bring downloads into path.incomplete, going on where an earlier try stopped,
// and renames it when its size and hash are right.
func (d *download) bring(ctx context.Context, b blob, path string, progress func(n int64)) error {
	part := path + ".incomplete"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for try := 1; ; try++ {
		resumed, err := d.transfer(ctx, b, f, progress)
		if err == nil {
			break
		}
		var bad *wrongContent
		switch {
		case errors.As(err, &bad):
			if err := f.Truncate(0); err != nil {
				return err
			}
			if !resumed {
				os.Remove(part)
				return err
			}
		case !temporary(err) || ctx.Err() != nil || try == attempts:
			return err
		default:
			if err := d.r.wait(ctx, try, ""); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// wrongContent says that a complete file is not what the hub said it is.
type wrongContent struct{ problem string }

func (e *wrongContent) Error() string { return e.problem }

// An interrupted transfer can go on.
type interrupted struct{ err error }

func (e *interrupted) Error() string { return e.err.Error() }
func (e *interrupted) Unwrap() error { return e.err }

func temporary(err error) bool {
	var i *interrupted
	return errors.As(err, &i)
}

// transfer makes f the blob's content; resumed tells whether f held a part.
func (d *download) transfer(ctx context.Context, b blob, f *os.File, progress func(n int64)) (resumed bool, err error) {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if at > b.size {
		at = 0
	}
	resumed = at > 0
	if at < b.size {
		res, err := d.r.get(ctx, d.p, http.MethodGet, d.url(b.name), at)
		if err != nil {
			return resumed, err
		}
		defer res.Body.Close()
		if at > 0 && !continues(res, at, b.size) {
			at, resumed = 0, false
			if res.StatusCode == http.StatusPartialContent {
				return true, &wrongContent{fmt.Sprintf("the server sent %q of another file", res.Header.Get("Content-Range"))}
			}
		}
		if err := f.Truncate(at); err != nil {
			return resumed, err
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return resumed, err
		}
		c := &counter{w: f, at: at, progress: progress}
		n, err := io.Copy(c, io.LimitReader(&reader{ctx, res.Body}, b.size-at+1))
		at += n
		switch {
		case at > b.size:
			return false, &wrongContent{fmt.Sprintf("is longer than the %d bytes that the hub announced", b.size)}
		case c.err != nil:
			return resumed, c.unwritten(b.size)
		case err != nil && ctx.Err() == nil, err == nil && at < b.size:
			return resumed, &interrupted{fmt.Errorf("the connection ended after %d of %d bytes; run again to go on from there", at, b.size)}
		case err != nil:
			return resumed, err
		}
	}
	return resumed, verify(ctx, f, b)
}

// continues reports whether an answer is the rest of the file from byte at on.
func continues(res *http.Response, at, size int64) bool {
	return res.StatusCode == http.StatusPartialContent &&
		res.Header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", at, size-1, size)
}

// verify holds the content of f against the hash: SHA-256 of files in LFS, the
// git blob hash of others.
func verify(ctx context.Context, f *os.File, b blob) error {
	var h hash.Hash = sha256.New()
	if len(b.etag) == 40 {
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", b.size)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(h, &reader{ctx, f}); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != b.etag {
		return &wrongContent{fmt.Sprintf("has hash %s where the hub announced %s", got, b.etag)}
	}
	return nil
}

// A counter reports how far a file is written.
type counter struct {
	w        io.Writer
	at       int64
	progress func(n int64)
	err      error // of w: not the connection's
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.at += int64(n)
	c.err = err
	c.progress(c.at)
	return n, err
}

// unwritten is why a file of the given size could not be written, and how much
// of it did not fit.
func (c *counter) unwritten(size int64) error {
	if !disk.Full(c.err) {
		return c.err
	}
	return fmt.Errorf("%w after %s: %s more are needed; what is there is kept, and the next run goes on from it", c.err, disk.Size(c.at), disk.Size(size-c.at))
}

// link makes name stand for blob: a relative link, as in the hub's own cache,
// or a copy where there are no links.
func link(blob, name string) error {
	target, err := filepath.Rel(filepath.Dir(name), blob)
	if err != nil {
		return err
	}
	if old, err := os.Readlink(name); err == nil && old == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp := name + ".tmp"
	os.Remove(tmp)
	if os.Symlink(target, tmp) != nil {
		if err := os.Link(blob, tmp); err != nil {
			return err
		}
	}
	return os.Rename(tmp, name)
}
