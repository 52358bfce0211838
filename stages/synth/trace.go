package synth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/teacher"
	"pipe/teacher/dial"
	"pipe/teacher/journal"
)

// Size implements stage.Sizer: rows that are asked for.
func (s *spec) Size(rows func(path string) int64) float64 {
	if n := rows("prompts"); s.Method != dialogues && n > 0 {
		return float64(min(int64(s.Count), n))
	}
	return float64(s.Count)
}

// recorded is a teacher that gives the answers which journals hold, and asks
// nobody.
func (s *spec) recorded(env *stage.Env) (teacher.Teacher, error) {
	c := s.Teacher.Config
	d := dial.Config{ModelID: c.ModelID, Precision: c.Precision}
	if c.Model != nil {
		d.ModelDigest = c.Model.Digest.String()
	}
	var files []string
	if own := filepath.Join(env.Journals, "teacher.jsonl"); s.Asks() {
		if _, err := os.Stat(own); err == nil {
			files = append(files, own)
		}
	}
	if c.Journal != "" {
		if filepath.IsAbs(c.Journal) {
			files = append(files, c.Journal)
		} else {
			files = append(files, filepath.Join(env.Dir, c.Journal))
		}
	}
	var journals []*journal.Journal
	for _, f := range files {
		j, err := journal.OpenReadOnly(f, s.Asks())
		if err != nil {
			return nil, &stage.JournalFault{Err: err}
		}
		journals = append(journals, j)
	}
	return journal.Recorded(d.ID(), journals...), nil
}

// items makes the work of all rows.
func (s *spec) items(env *stage.Env, ask *asker) ([]func(context.Context) (result, error), error) {
	switch s.Method {
	case dialogues:
		return s.dialogueItems(env, ask)
	case responses:
		return s.responseItems(env, ask)
	}
	return s.pairItems(env, ask)
}

// Forecast implements stage.Forecaster.
func (s *spec) Forecast(ctx context.Context, env *stage.Env) (rows, recorded int, err error) {
	t, err := s.recorded(env)
	if err != nil {
		return 0, 0, err
	}
	items, err := s.items(env, s.rereads(t))
	if err != nil {
		return 0, 0, err
	}
	for _, item := range items {
		if _, err := item(ctx); err == nil {
			recorded++
		} else if !errors.Is(err, journal.ErrMissing) {
			return 0, 0, err
		}
	}
	return len(items), recorded, nil
}

// Asks implements stage.Forecaster.
func (s *spec) Asks() bool { return s.Teacher.Config.Provider != "journal" }

// rereads is an asker of a teacher that only says again what it said.
func (s *spec) rereads(t teacher.Teacher) *asker {
	return &asker{teacher: t, spec: s, account: &stage.Account{}, over: func() error { return nil }}
}

// Lineage implements stage.Tracer.
func (s *spec) Lineage(env *stage.Env, made stage.Outputs, output string) iter.Seq2[stage.Descent, error] {
	return func(yield func(stage.Descent, error) bool) {
		a, err := made(output)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		places, err := s.passages(env)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		if output == "rejects" {
			for d, err := range artifact.Rows[artifact.Drop](a) {
				if !yield(s.descent(d.ID, d.Partner, places), err) {
					return
				}
			}
			return
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			if !yield(s.descent(r.ID, r.Source, places), err) {
				return
			}
		}
	}
}

// descent is that of a row made from a passage, or from a row.
func (s *spec) descent(id, from string, places map[string]int) stage.Descent {
	if s.Method != dialogues {
		return stage.Descent{ID: id, Parents: []stage.Parent{{Input: "prompts", ID: from}}}
	}
	i := strings.LastIndexByte(from, '#')
	if i < 0 {
		return stage.Descent{ID: id}
	}
	return stage.Descent{ID: id, Parents: []stage.Parent{{Input: "documents", ID: from[:i], Part: "passage " + from[i+1:], From: places[from]}}}
}

// passages returns where the passages of all documents begin, in bytes of the
// document's text, by their id.
func (s *spec) passages(env *stage.Env) (map[string]int, error) {
	if s.Method != dialogues {
		return nil, nil
	}
	a, err := env.Store.Open(s.Documents.Ref)
	if err != nil {
		return nil, err
	}
	places := map[string]int{}
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		at := 0
		for n, text := range cut(row.Text, s.ChunkChars) {
			var begin int
			begin, at = stage.Follow(row.Text, at, text)
			places[chunk{document: row.ID, n: n}.id()] = begin
		}
	}
	return places, nil
}

// A listener notes what a teacher is asked and answers.
type listener struct {
	teacher.Teacher
	mu    sync.Mutex
	heard []exchange
}

type exchange struct {
	request teacher.Request
	answer  teacher.Answer
	err     error
}

func (l *listener) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	a, err := l.Teacher.Complete(ctx, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, exchange{r, a, err})
	return a, err
}

// Tell implements stage.Teller: it asks for the row once more, of the journals
// alone, and listens.
func (s *spec) Tell(ctx context.Context, env *stage.Env, made stage.Outputs, p stage.Place) (*stage.Told, error) {
	told := &stage.Told{Parent: -1}
	id, meta, err := rowAt(made, p)
	if err != nil {
		return nil, err
	}
	told.Facts = append(told.Facts, meta...)
	i, err := strconv.Atoi(id[strings.LastIndexByte(id, '-')+1:])
	if err != nil {
		return nil, fmt.Errorf("%q is not the id of a row of synth", id)
	}
	t, err := s.recorded(env)
	if err != nil {
		return nil, err
	}
	l := &listener{Teacher: t}
	items, err := s.items(env, s.rereads(l))
	if err != nil {
		return nil, err
	}
	if i < 0 || i >= len(items) {
		return nil, fmt.Errorf("row %q was not asked for", id)
	}
	_, err = items[i](ctx)
	for _, x := range l.heard {
		told.Facts = append(told.Facts, s.facts(i, x)...)
	}
	if err != nil && !errors.Is(err, journal.ErrMissing) {
		return nil, err
	}
	return told, nil
}

// facts tells one exchange.
func (s *spec) facts(i int, x exchange) []stage.Fact {
	step := "request"
	for _, name := range steps {
		if sampleSeed(s.Salt, i, name, x.request.Attempt) == x.request.Seed {
			step = name
		}
	}
	label := fmt.Sprintf("%s, attempt %d", step, x.request.Attempt+1)
	answer := stage.Fact{What: label + ": teacher answered", Text: x.answer.Content}
	switch {
	case errors.Is(x.err, journal.ErrMissing):
		answer = stage.Fact{What: label, Text: "the answer is in no journal any more"}
	case x.err != nil:
		answer = stage.Fact{What: label + ": teacher refused", Text: x.err.Error()}
	case !x.answer.Stopped:
		answer.What += ", cut off at max_tokens"
	}
	told := []stage.Fact{{What: label + ": asked", Text: transcript(x.request.Messages)}}
	if x.answer.Reasoning != "" {
		told = append(told, stage.Fact{What: label + ": teacher thought", Text: x.answer.Reasoning})
	}
	return append(told, answer)
}

// steps are the names of the requests of a row.
var steps = []string{"question", "reasoning", "answer", "check", "correction", "closed-book answer", "second answer", "judgement", "response"}

// rowAt returns the id of a row of dataset or rejects, and what its own fields
// tell.
func rowAt(made stage.Outputs, p stage.Place) (id string, facts []stage.Fact, err error) {
	a, err := made(p.Output)
	if err != nil {
		return "", nil, err
	}
	n := 0
	if p.Output == "rejects" {
		for d, err := range artifact.Rows[artifact.Drop](a) {
			if err != nil {
				return "", nil, err
			}
			if n++; n > p.Row {
				return d.ID, []stage.Fact{{What: "rejected: " + d.Reason, Text: d.Detail}}, nil
			}
		}
	} else {
		for r, err := range artifact.Rows[artifact.Row](a) {
			if err != nil {
				return "", nil, err
			}
			if n++; n > p.Row {
				return r.ID, verdicts(r), nil
			}
		}
	}
	return "", nil, fmt.Errorf("output %s has no row %d", p.Output, p.Row)
}

// verdicts tells what the checks of a row found.
func verdicts(r artifact.Row) []stage.Fact {
	var m struct {
		Teacher   string `json:"teacher"`
		Corrected bool   `json:"corrected"`
		First     string `json:"first_answer"`
	}
	if json.Unmarshal([]byte(r.Meta), &m) != nil || m.Teacher == "" {
		return nil
	}
	facts := []stage.Fact{{What: "teacher", Text: m.Teacher}}
	if m.Corrected {
		facts = append(facts, stage.Fact{What: "the check rejected the first answer", Text: m.First})
	}
	return facts
}
