package engine

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

const (
	maxNotes    = 1000                   // a record keeps that many
	maxPoints   = 4096                   // of a series; more are thinned
	maxProgress = 100 * time.Millisecond // between two events
)

// A job collects what one attempt makes and says. Its methods may be called
// concurrently.
type job struct {
	e     *engine
	n     *lang.Node
	store *artifact.Store // of the outputs and journals

	mu       sync.Mutex
	writers  map[string]*artifact.Writer
	notes    []string
	dropped  int
	infinite map[string]bool
	series   series
	told     time.Time // when progress was last passed on
}

func newJob(e *engine, n *lang.Node) *job {
	return &job{e: e, n: n, store: e.Store, writers: map[string]*artifact.Writer{}, infinite: map[string]bool{}, series: series{byName: map[string]*thinned{}}}
}

// env is what the stage is lent to run the action a in the directory work.
func (j *job) env(a *action, work string) *stage.Env {
	return &stage.Env{
		Log: j.e.Log.With().Str("stage", j.n.Addr).Logger(), Seed: a.pre.Seed, Dir: j.e.dir(j.n), Work: work,
		Journals: j.store.Journals(), Store: inputs{j.e},
		Create: j.create, Metric: j.metric, Progress: j.progress, Note: j.note,
		Once:    func(of, v any, measure func() error) (bool, error) { return j.once(&a.pre, of, v, measure) },
		Account: func(t stage.Teacher) *stage.Account { return j.e.money.account(j.n.Addr, t) },
	}
}

// once is [stage.Env.Once] of an action with that pre-image.
func (j *job) once(p *preimage, of, v any, measure func() error) (bool, error) {
	text, err := json.Marshal(of)
	if err != nil {
		return false, fmt.Errorf("encode what a measurement depends on: %w", err)
	}
	f := framer{sha256.New()}
	f.text("pipe memo")
	f.text(p.Kind)
	f.text(strconv.Itoa(p.Version))
	f.bytes(text)
	f.text(strconv.FormatUint(p.Seed, 10))
	f.text(p.Backend)
	k := artifact.Key(f.sum())
	if j.store.Memo(k, v) {
		return true, nil
	}
	if err := measure(); err != nil {
		return false, err
	}
	if err := j.store.PutMemo(k, v); err != nil { // it is measured again next time
		j.e.Log.Warn().Err(err).Str("stage", j.n.Addr).Msg("not kept for later")
	}
	return false, nil
}

func (j *job) create(name string) (*artifact.Writer, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.writers[name] != nil {
		return nil, fmt.Errorf("output %q was created already", name)
	}
	var names []string
	for _, o := range j.n.Makes {
		if o.Name == name && o.Alias == "" {
			w, err := j.store.Create(o.Type)
			if err == nil {
				j.writers[name] = w
			}
			return w, err
		}
		names = append(names, fmt.Sprintf("%q", o.Name))
	}
	return nil, fmt.Errorf("%s stages create no output %q; they have %s", j.n.Kind.Name, name, strings.Join(names, ", "))
}

// commit publishes the outputs once all of them are there.
func (j *job) commit() (map[string]artifact.Object, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, o := range j.n.Makes {
		if o.Alias == "" && j.writers[o.Name] == nil {
			return nil, fmt.Errorf("the stage ended without creating its output %q; this is a mistake in the stage", o.Name)
		}
	}
	out := map[string]artifact.Object{}
	for _, o := range j.n.Makes {
		if o.Alias != "" {
			continue
		}
		obj, err := j.writers[o.Name].Commit()
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", o.Name, err)
		}
		out[o.Name] = obj
	}
	return out, nil
}

// abort throws away what was not published.
func (j *job) abort() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range j.writers {
		w.Abort()
	}
}

func (j *job) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.mu.Lock()
	if len(j.notes) < maxNotes {
		j.notes = append(j.notes, text)
	} else {
		j.dropped++
	}
	j.mu.Unlock()
	j.e.emit(Event{Type: NoteEvent, Addr: j.n.Addr, Text: text})
}

func (j *job) takenNotes() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.dropped > 0 {
		return append(j.notes, fmt.Sprintf("and %d more notes", j.dropped))
	}
	return j.notes
}

func (j *job) metric(name string, step int64, value float64) {
	finite := !math.IsNaN(value) && !math.IsInf(value, 0)
	j.mu.Lock()
	if finite { // JSON has no others
		j.series.add(artifact.Point{Series: name, Step: step, Value: value})
	}
	first := !finite && !j.infinite[name]
	if first {
		j.infinite[name] = true
	}
	j.mu.Unlock()
	j.e.emit(Event{Type: MetricEvent, Addr: j.n.Addr, Name: name, Step: step, Value: value})
	if first {
		j.note("%s is %v at step %d", name, value, step)
	}
}

// progress passes on what is worth showing, and the end.
func (j *job) progress(done, total int64, unit string) {
	j.mu.Lock()
	now := time.Now()
	skip := now.Sub(j.told) < maxProgress && (total == 0 || done != total)
	if !skip {
		j.told = now
	}
	j.mu.Unlock()
	if !skip {
		j.e.emit(Event{Type: ProgressEvent, Addr: j.n.Addr, Done: done, Total: total, Unit: unit})
	}
}

// A series holds points of several names, at most maxPoints of each: when one
// is full, every second point goes, and from then on only every second comes.
type series struct {
	names  []string // in the order they came
	byName map[string]*thinned
}

type thinned struct {
	points       []artifact.Point
	seen, stride int
}

func (s *series) add(p artifact.Point) {
	t := s.byName[p.Series]
	if t == nil {
		t = &thinned{stride: 1}
		s.byName[p.Series] = t
		s.names = append(s.names, p.Series)
	}
	if t.seen%t.stride == 0 {
		if len(t.points) == maxPoints {
			for i := range maxPoints / 2 {
				t.points[i] = t.points[2*i]
			}
			t.points = t.points[:maxPoints/2]
			t.stride *= 2
		}
		t.points = append(t.points, p)
	}
	t.seen++
}

func (s *series) points() (out []artifact.Point) {
	for _, n := range s.names {
		out = append(out, s.byName[n].points...)
	}
	return out
}
