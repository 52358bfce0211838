package artifact

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pipe/runtime/fsys"
)

// GraceDefault is how long gc spares what nobody needs, and WorkGraceDefault
// how long it spares the checkpoints of stages that were stopped.
const (
	GraceDefault     = 24 * time.Hour
	WorkGraceDefault = 14 * 24 * time.Hour
)

// minTempGrace spares what is being written for a moment by those who could
// not begin a session.
const minTempGrace = time.Hour

// CollectOptions say what [Store.Collect] keeps.
type CollectOptions struct {
	Keep      map[Key]bool  // the actions whose records and outputs stay
	Grace     time.Duration // whatever changed within it stays
	WorkGrace time.Duration // work directories with files in them, and memos, stay for so long; at least Grace
	DryRun    bool          // change nothing
	Now       time.Time     // zero: the present
}

// A Collected is what Collect took away, or would take away.
type Collected struct {
	Records Tally `json:"records"`
	Objects Tally `json:"objects"`
	Work    Tally `json:"work"`
	Temp    Tally `json:"temp"`
	Memos   Tally `json:"memos"`
	Leases  Tally `json:"leases"` // and sessions, of processes that died

	KeptRecords Tally        `json:"kept_records"`
	KeptObjects Tally        `json:"kept_objects"`
	Unfinished  []Unfinished `json:"unfinished"` // work that stays, oldest first
	Live        int          `json:"live"`       // processes that use the store now
}

// A Tally is a number of things and their size in bytes.
type Tally struct {
	N     int   `json:"n"`
	Bytes int64 `json:"bytes"`
}

func (t *Tally) add(bytes int64) { t.N++; t.Bytes += bytes }

// Freed returns the bytes that were freed.
func (c *Collected) Freed() int64 {
	return c.Records.Bytes + c.Objects.Bytes + c.Work.Bytes + c.Temp.Bytes + c.Memos.Bytes + c.Leases.Bytes
}

// An Unfinished is the work directory of an action that was stopped: what it
// saved to go on from.
type Unfinished struct {
	Key     Key           `json:"key"`
	Addr    string        `json:"stage"` // empty if not known
	Bytes   int64         `json:"bytes"`
	Age     time.Duration `json:"-"`
	Running bool          `json:"running"` // now
	Left    time.Duration `json:"-"`       // until it is collected
}

// Collect removes records that are not kept, artifacts that no remaining record
// names, and what processes that died left behind. It never touches journals.
//
// It may run beside runs and other Collects, and be killed at any instant:
// records go before the artifacts they name, each leaves by one rename, and
// what a live session names (see [Store.Begin]) stays. On an error nothing more
// is removed; what cannot be read is never taken for garbage.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (*Collected, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	o.WorkGrace = max(o.WorkGrace, o.Grace)
	c := &collector{Store: s, CollectOptions: o, ctx: ctx, got: &Collected{Unfinished: []Unfinished{}}}
	for _, step := range []func() error{c.open, c.mark, c.sweepRecords, c.sweepObjects, c.sweepWork, c.sweepTemp, c.sweepMemos, c.sweepLeases} {
		err := step()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			c.close()
			return c.got, s.Advise(fmt.Errorf("collect garbage: %w", err))
		}
	}
	c.close()
	return c.got, nil
}

type collector struct {
	*Store
	CollectOptions
	ctx     context.Context
	got     *Collected
	gate    *gate
	grave   string          // a directory in tmp/ for what is being removed; "" when there is no room for one
	notes   map[string]bool // of live sessions, as of the last look
	dead    []string        // files of dead sessions
	garbage []found         // records
	used    map[Digest]bool // named by the records that stay
}

// found is something that may be garbage.
type found struct {
	name  string // of its note; "" if sessions do not name such things
	paths []string
	bytes int64
}

func (c *collector) open() (err error) {
	if !c.DryRun {
		if c.unmade != nil {
			return c.unmade
		}
		if c.gate, err = openGate(c.dir, c.share); err != nil {
			return err
		}
	}
	c.notes, c.got.Live, c.dead, err = c.liveNotes(c.Now)
	return err
}

func (c *collector) close() {
	if c.gate != nil {
		c.gate.close()
	}
}

func (c *collector) young(t time.Time, grace time.Duration) bool { return c.Now.Sub(t) < grace }

// mark finds the records to remove, and what those that stay name.
func (c *collector) mark() error {
	c.used = map[Digest]bool{}
	return c.eachRecord(func(k Key, path string, info fs.FileInfo) error {
		size := info.Size()
		series := c.seriesPath(k)
		if st, err := os.Stat(series); err == nil {
			size += st.Size()
		}
		r, err := c.readRecord(k)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		note := noteKey + k.String()
		if !c.Keep[k] && !c.notes[note] && !c.young(info.ModTime(), c.Grace) {
			c.garbage = append(c.garbage, found{note, []string{path, series}, size})
			return nil
		}
		c.got.KeptRecords.add(size)
		if err != nil { // damaged: it names nothing
			return nil
		}
		return c.use(r)
	})
}

// use marks the outputs of a record, and the bases of the models among them.
func (c *collector) use(r *Record) error {
	for _, o := range r.Outputs {
		c.used[o.Digest] = true
		if o.Type != Model {
			continue
		}
		a, err := c.Open(o.Digest)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var m ModelManifest
		if !a.Has(ModelFile) {
			continue
		}
		if err := ReadJSON(a, ModelFile, &m); err != nil {
			return err
		}
		c.used[m.Base] = true
	}
	return nil
}

// eachRecord visits the records in the store.
func (s *Store) eachRecord(visit func(k Key, path string, info fs.FileInfo) error) error {
	return s.eachBelow("actions", func(path string, e fs.DirEntry) error {
		var k Key
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || k.UnmarshalText([]byte(name)) != nil || e.IsDir() || s.recordPath(k) != path {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(k, path, info)
	})
}

// eachObject visits the directories of artifacts in the store.
func (s *Store) eachObject(visit func(d Digest, path string, info fs.FileInfo) error) error {
	return s.eachBelow("objects/sha256", func(path string, e fs.DirEntry) error {
		var d Digest
		if d.UnmarshalText([]byte("sha256:"+e.Name())) != nil || !e.IsDir() || s.ObjectDir(d) != path {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(d, path, info)
	})
}

// eachBelow visits what lies in the directories of dir.
func (s *Store) eachBelow(dir string, visit func(path string, e fs.DirEntry) error) error {
	top := filepath.Join(s.dir, filepath.FromSlash(dir))
	list, err := readDir(top)
	if err != nil {
		return err
	}
	for _, sub := range list {
		if !sub.IsDir() {
			continue
		}
		below, err := readDir(filepath.Join(top, sub.Name()))
		if err != nil {
			return err
		}
		for _, e := range below {
			if err := visit(filepath.Join(top, sub.Name(), e.Name()), e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *collector) sweepRecords() error {
	removed, err := c.remove(c.garbage, &c.got.Records)
	if err != nil {
		return err
	}
	// What was spared at the last look names artifacts that must stay.
	for _, f := range c.garbage {
		if removed[f.name] {
			continue
		}
		var k Key
		if err := k.UnmarshalText([]byte(strings.TrimPrefix(f.name, noteKey))); err != nil {
			return err
		}
		c.got.KeptRecords.add(f.bytes)
		r, err := c.readRecord(k)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			err = c.use(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) sweepObjects() error {
	// A run that began since may have made records of artifacts that were there.
	if !c.DryRun {
		if err := c.markNew(); err != nil {
			return err
		}
	}
	var list []found
	err := c.eachObject(func(d Digest, path string, info fs.FileInfo) error {
		size, _, err := treeSize(path)
		if err != nil {
			return err
		}
		note := noteObject + d.String()
		if c.used[d] || c.notes[note] || c.young(info.ModTime(), c.Grace) {
			c.got.KeptObjects.add(size)
			return nil
		}
		list = append(list, found{note, []string{path}, size})
		return nil
	})
	if err != nil {
		return err
	}
	_, err = c.remove(list, &c.got.Objects)
	return err
}

// markNew marks what the records name that came while the others went.
func (c *collector) markNew() error {
	return c.eachRecord(func(k Key, _ string, info fs.FileInfo) error {
		if !c.young(info.ModTime(), time.Hour) {
			return nil
		}
		r, err := c.readRecord(k)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return c.use(r)
	})
}

const removeBatch = 256 // things removed under one lock

// remove takes things away, but for those that a live session names by now.
func (c *collector) remove(list []found, t *Tally) (removed map[string]bool, err error) {
	removed = map[string]bool{}
	for batch := range slices.Chunk(list, removeBatch) {
		if err := c.ctx.Err(); err != nil {
			return removed, err
		}
		if err := c.removeBatch(batch, t, removed); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

func (c *collector) removeBatch(batch []found, t *Tally, removed map[string]bool) error {
	if c.DryRun {
		for _, f := range batch {
			t.add(f.bytes)
			removed[f.name] = true
		}
		return nil
	}
	grave, err := c.tempDir("garbage")
	if err == nil {
		c.grave = grave
	} else if !fsys.Full(err) { // a full disk is no reason not to make room
		return err
	}
	err = c.entomb(batch, t, removed)
	if c.grave != "" { // the files themselves go when nobody waits for the lock
		err = errors.Join(err, c.fs.RemoveAll(c.grave))
		c.grave = ""
	}
	return err
}

// take takes one thing away: by a rename, or, where there is no room for that,
// so that what is half there is not believed.
func (c *collector) take(path string) error {
	if c.grave != "" {
		return c.fs.Rename(path, filepath.Join(c.grave, rand.Text()))
	}
	if err := c.fs.Remove(filepath.Join(path, manifestName)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	return c.fs.RemoveAll(path)
}

// entomb takes things away under the lock.
func (c *collector) entomb(batch []found, t *Tally, removed map[string]bool) (err error) {
	defer c.gate.lock(exclusive)()
	if c.notes, c.got.Live, c.dead, err = c.liveNotes(c.Now); err != nil {
		return err
	}
	parents := map[string]bool{}
	for _, f := range batch {
		if f.name != "" && c.notes[f.name] {
			continue
		}
		for _, path := range f.paths {
			err := c.take(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			parents[filepath.Dir(path)] = true
		}
		t.add(f.bytes)
		removed[f.name] = true
	}
	for dir := range parents { // before anything that they named goes
		if err := c.fs.Sync(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
