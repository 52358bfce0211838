package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// How many rows the tables have.
const (
	mostBars   = 60
	mostStages = 1500
)

// A timeline shows when the stages of a run were at work.
type timeline struct {
	Bars  []bar
	Ticks []tick
	Note  string
	More  int // stages that are not shown
}

// A bar is a stage; From and Wide are shares of the run's time in percent.
type bar struct {
	Addr, Link, State, Symbol, Text string
	From, Wide                      string
	Ran                             bool
}

type tick struct{ At, Text string }

func (r *reader) timeline() (t timeline) {
	var ran, kept []*engine.StageResult
	unknown := 0
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		switch {
		case st.State == engine.Cached:
			kept = append(kept, st)
		case !st.Began.IsZero():
			ran = append(ran, st)
		case st.Seconds > 0:
			unknown++
		}
	}
	if unknown > 0 {
		t.Note = "An older version of pipe ran this, which did not note when a stage began."
	}
	slices.SortStableFunc(ran, func(a, b *engine.StageResult) int { return a.Began.Compare(b.Began) })
	slices.SortStableFunc(kept, func(a, b *engine.StageResult) int { return cmp.Compare(b.Saved, a.Saved) })
	whole := max(r.run.Seconds, 1e-9)
	for _, st := range ran {
		whole = max(whole, st.Began.Sub(r.run.Started).Seconds()+st.Seconds)
	}
	t.More = max(0, len(ran)-mostBars)
	if t.More > 0 { // the longest
		slices.SortStableFunc(ran, func(a, b *engine.StageResult) int { return cmp.Compare(b.Seconds, a.Seconds) })
		ran = ran[:mostBars]
		slices.SortStableFunc(ran, func(a, b *engine.StageResult) int { return a.Began.Compare(b.Began) })
	}
	for _, st := range ran {
		b := r.bar(st)
		from := 100 * max(0, st.Began.Sub(r.run.Started).Seconds()) / whole
		b.From, b.Wide, b.Ran = percent(from), percent(max(0.4, 100*st.Seconds/whole)), true
		b.Text = seconds(st.Seconds)
		t.Bars = append(t.Bars, b)
	}
	for i, st := range kept {
		if len(t.Bars) >= mostBars {
			t.More += len(kept) - i
			break
		}
		b := r.bar(st)
		b.Text = "cached"
		if st.Saved > 0 {
			b.Text = "saved " + seconds(st.Saved)
		}
		t.Bars = append(t.Bars, b)
	}
	for i := range 5 {
		t.Ticks = append(t.Ticks, tick{percent(float64(25 * i)), seconds(whole * float64(i) / 4)})
	}
	return t
}

func (r *reader) bar(st *engine.StageResult) bar {
	class, symbol, _ := look(st.State)
	return bar{Addr: clean(st.Addr), Link: fmt.Sprintf("#s%d", r.index[st.Addr]), State: class, Symbol: symbol}
}

func percent(v float64) string { return fmt.Sprintf("%.2f%%", v) }

// A stageTable lists the stages.
type stageTable struct {
	Rows  []stageRow
	More  int
	Total string // time, rows and bytes of all
}

type stageRow struct {
	ID, State, Symbol, Word string
	Addr, Reason            string
	In, Out, Size, Time     string
	Saved                   string
	Notes, Rest             []string // the first, and those to be asked for
	Key                     string
	Error                   string
	Placed                  bool
}

func (r *reader) stageTable() (t stageTable) {
	shown := r.chosen(mostStages)
	t.More = len(r.run.Stages) - len(shown)
	var took, saved float64
	var size int64
	var spent artifact.Spent
	for _, st := range r.run.Stages {
		took, saved = took+st.Seconds, saved+st.Saved
		if st.Spent != nil {
			spent.Add(*st.Spent)
		}
		for _, o := range st.Outputs {
			size += o.Bytes
		}
	}
	t.Total = fmt.Sprintf("%s: %s of work, %s saved by the store, %s of results.", counted(len(r.run.Stages), "stage"), seconds(took), seconds(saved), byteCount(size))
	if text := cost(spent); text != "" {
		t.Total += " Teachers: " + text + "."
	}
	for _, i := range shown {
		t.Rows = append(t.Rows, r.stageRow(i))
	}
	return t
}

// cost words what teachers took: "3 new answers, 1 200 tokens in and 340 out,
// 0.0012 USD; 40 from journals"; empty when none was asked.
func cost(s artifact.Spent) string {
	var parts []string
	if s.Calls+s.Lost > 0 {
		text := counted(int(s.Calls), "new answer")
		if s.Lost > 0 {
			text += fmt.Sprintf(" and %d lost on the way", s.Lost)
		}
		text += fmt.Sprintf(", %s tokens in and %s out", integer(s.InputTokens), integer(s.OutputTokens))
		if s.USD > 0 {
			text += fmt.Sprintf(", %.4f USD", s.USD)
		}
		parts = append(parts, text)
	}
	if s.Replayed > 0 {
		parts = append(parts, integer(s.Replayed)+" from journals")
	}
	return strings.Join(parts, "; ")
}

// chosen returns the indexes of at most n stages: those that failed, and then as
// many as there is room for, in their order.
func (r *reader) chosen(n int) (out []int) {
	room := n
	for _, st := range r.run.Stages {
		if st.State == engine.Failed {
			room--
		}
	}
	for i, st := range r.run.Stages {
		if st.State == engine.Failed && len(out) < n {
			out = append(out, i)
		} else if st.State != engine.Failed && room > 0 {
			room--
			out = append(out, i)
		}
	}
	return out
}

func (r *reader) stageRow(i int) stageRow {
	st := &r.run.Stages[i]
	class, symbol, word := look(st.State)
	row := stageRow{
		ID: fmt.Sprintf("s%d", i), State: class, Symbol: symbol, Word: word, Addr: clean(st.Addr),
		Reason: clip(st.Reason, 400), Error: clip(st.Error, 2000), Placed: st.Placed != "",
	}
	switch st.State {
	case engine.Cached:
		row.Reason = "up to date"
	case engine.Cancelled: // whose error says that it was
		row.Error, row.Notes = "", []string{"stopped; the next run goes on from what it saved"}
	}
	if st.Blame != "" {
		row.Reason = "it needs " + clean(st.Blame) + ", which failed"
	}
	if st.Key != (artifact.Key{}) {
		row.Key = st.Key.String()[:12]
	}
	if st.Seconds > 0 {
		row.Time = seconds(st.Seconds)
	}
	if st.Saved > 0 {
		row.Saved = seconds(st.Saved)
	}
	if st.Spent != nil && st.Spent.Calls+st.Spent.Lost > 0 {
		row.Notes = append(row.Notes, "teacher: "+cost(*st.Spent))
	}
	const mostNotes, atOnce = 12, 2
	for k, n := range st.Notes[:min(len(st.Notes), mostNotes)] {
		if k < atOnce {
			row.Notes = append(row.Notes, clip(n, 300))
		} else {
			row.Rest = append(row.Rest, clip(n, 300))
		}
	}
	if n := len(st.Notes) - mostNotes; n > 0 {
		row.Rest = append(row.Rest, fmt.Sprintf("… and %d more notes", n))
	}
	row.In, row.Out, row.Size = r.flow(st)
	return row
}

// isReference reports whether the input at a path is only compared with.
func isReference(path string) bool { return strings.HasPrefix(path, "decontaminate.") }

// flow counts the rows that went into a stage and came out, by output.
func (r *reader) flow(st *engine.StageResult) (in, out, size string) {
	var rows, total int64
	tables := 0
	for path, d := range r.preimage(st).Inputs {
		if o, ok := r.objects[d]; ok && o.Type == artifact.Dataset && !isReference(path) {
			rows += o.Rows
			tables++
		}
	}
	if tables > 0 {
		in = integer(rows)
	}
	var parts []string
	for _, name := range sortedKeys(st.Outputs) {
		o := st.Outputs[name]
		total += o.Bytes
		if o.Type != artifact.Dataset {
			continue
		}
		text := integer(o.Rows)
		if name != "" && name != "dataset" {
			text += " " + clean(name)
		}
		parts = append(parts, text)
	}
	if total > 0 {
		size = byteCount(total)
	}
	return in, strings.Join(parts, ", "), size
}
