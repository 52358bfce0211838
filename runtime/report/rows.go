package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// Bounds of what is read and shown of tables. Reading a table checks all of its
// content first, which takes a second for some gigabytes.
const (
	mostSampled = 40      // stages with samples
	mostScanned = 200_000 // rows read of a table to count or to find a partner
	mostBytes   = 4 << 30 // of a table that is read at all
	textLength  = 420     // characters of a field
	perReason   = 3       // dropped rows shown of each reason
)

// A field is one part of a row.
type field struct{ Name, Text string }

// A rowView is one row as the report shows it.
type rowView struct {
	ID     string
	Fields []field
	Strip  *strip // of a packed row
	Good   string // "good" or "bad" for an item that was answered right or wrong
}

// A strip draws a packed row: what is learned, and where documents begin.
type strip struct {
	Learned []span
	Starts  []string
	Text    string
}

type span struct{ From, Wide string }

// open opens a table that is not too large to be looked at.
func (r *reader) open(o artifact.Object) (*artifact.Artifact, error) {
	if o.Bytes > mostBytes {
		return nil, fmt.Errorf("it has %s, too much to read for a report", byteCount(o.Bytes))
	}
	return r.store.Open(o.Digest)
}

// A sample is what went into a stage and what came out.
type sample struct {
	Stage, Kind string
	In, Out     []rowSet
	Note        string
}

// A rowSet is a few rows of one table.
type rowSet struct {
	Name string
	Rows []rowView
	More string
}

// samples shows a few rows before and after each stage that makes rows.
func (r *reader) samples() (out []sample, unshown int) {
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		if !hasRows(st) {
			continue
		}
		if len(out) == mostSampled {
			unshown++
			continue
		}
		if s, ok := r.sample(st); ok {
			out = append(out, s)
		}
	}
	return out, unshown
}

func hasRows(st *engine.StageResult) bool {
	for _, o := range st.Outputs {
		if o.Type == artifact.Dataset {
			return true
		}
	}
	return false
}

func (r *reader) sample(st *engine.StageResult) (s sample, ok bool) {
	s = sample{Stage: clean(st.Addr), Kind: clean(st.Kind)}
	var problems []string
	wanted := map[string]bool{} // ids of rows that the shown ones were made from
	for _, name := range sortedKeys(st.Outputs) {
		o := st.Outputs[name]
		if o.Type != artifact.Dataset {
			continue
		}
		a, err := r.open(o)
		var kind string
		if err == nil {
			kind, err = artifact.RowType(a)
		}
		if err != nil {
			problems = append(problems, clip(err.Error(), 300))
			continue
		}
		label := clean(strings.TrimSuffix(st.Addr+"."+name, "."))
		switch kind {
		case "row":
			rows := pick(a, st.Kind == "eval")
			for _, x := range rows {
				wanted[x.ID], wanted[x.Source] = true, true
			}
			s.Out = append(s.Out, set(label, rows, o.Rows, viewRow))
		case "packed":
			rows := first[artifact.Packed](a, 2)
			for _, x := range rows {
				for _, id := range x.Rows[:min(len(x.Rows), 2)] {
					wanted[id] = true
				}
			}
			s.Out = append(s.Out, set(label, rows, o.Rows, viewPacked))
		}
	}
	if st.Kind != "data" && st.Kind != "eval" {
		s.In = r.inputs(st, wanted)
	}
	s.Note = strings.Join(problems, "; ")
	return s, len(s.Out) > 0 || s.Note != ""
}

// set shows rows of a table.
func set[T any](name string, rows []T, total int64, show func(T) rowView) rowSet {
	s := rowSet{Name: fmt.Sprintf("%s, %s", name, counted(int(total), "row"))}
	for _, x := range rows {
		s.Rows = append(s.Rows, show(x))
	}
	if n := total - int64(len(rows)); n > 0 {
		s.More = "… and " + integer(n) + " more"
	}
	return s
}

// first returns the first n rows; of a table that is damaged those before that.
func first[T any](a *artifact.Artifact, n int) (rows []T) {
	for x, err := range artifact.Rows[T](a) {
		if err != nil || len(rows) == n {
			break
		}
		rows = append(rows, x)
	}
	return rows
}

// pick returns the first row and one from the middle; of an eval's items of each
// suite one that went well and two that did not.
func pick(a *artifact.Artifact, items bool) (rows []artifact.Row) {
	half, i := a.Count()/2, int64(0)
	taken := map[string]int{}
	for x, err := range artifact.Rows[artifact.Row](a) {
		if err != nil || i > mostScanned {
			break
		}
		if items {
			suite := strings.TrimSuffix(x.ID, "/"+x.Source)
			how := correctness(x)
			most := 1
			if how == "bad" {
				most = 2
			}
			if k := suite + "\x00" + how; taken[k] < most && len(rows) < 12 {
				taken[k]++
				rows = append(rows, x)
			}
		} else if i == 0 || i == half {
			rows = append(rows, x)
			if i == half && i > 0 {
				break
			}
		}
		i++
	}
	return rows
}

// correctness is "good" or "bad" for an item that says so.
func correctness(x artifact.Row) string {
	var d struct{ Correct *bool }
	if json.Unmarshal([]byte(x.Meta), &d) != nil || d.Correct == nil {
		return ""
	}
	if *d.Correct {
		return "good"
	}
	return "bad"
}

// inputs shows of each table that went into a stage the rows that were wanted,
// else the first ones.
func (r *reader) inputs(st *engine.StageResult, wanted map[string]bool) (out []rowSet) {
	ins := r.preimage(st).Inputs
	for _, path := range sortedKeys(ins) {
		o, ok := r.objects[ins[path]]
		if !ok || o.Type != artifact.Dataset || isReference(path) || len(out) == 4 {
			continue
		}
		a, err := r.open(o)
		if err != nil {
			continue
		}
		if kind, err := artifact.RowType(a); err != nil || kind != "row" {
			continue
		}
		var found, plain []artifact.Row
		i := 0
		for x, err := range artifact.Rows[artifact.Row](a) {
			if err != nil || i == mostScanned || len(found) == 2 {
				break
			}
			if i++; i <= 2 {
				plain = append(plain, x)
			}
			if x.ID != "" && wanted[x.ID] {
				found = append(found, x)
			}
		}
		if len(found) == 0 {
			found = plain
		}
		out = append(out, set(r.inputName(st, path, o), found, o.Rows, viewRow))
	}
	return out
}

// inputName says whose output an input is, and what the stage calls it.
func (r *reader) inputName(st *engine.StageResult, path string, o artifact.Object) string {
	from := ""
	for _, addr := range r.makers[o.Digest] { // the nearest one, should several have made the same
		if from == "" || slices.Contains(st.Needs, addr) {
			from = addr
		}
	}
	return clean(path + " = " + from)
}

func viewRow(x artifact.Row) rowView {
	v := rowView{ID: clip(x.ID, 80), Good: correctness(x)}
	add := func(name, text string) {
		if text != "" {
			v.Fields = append(v.Fields, field{clip(name, 40), clip(text, textLength)})
		}
	}
	turns := func(prefix string, ms []artifact.Message) {
		const most = 6
		for i, m := range ms {
			if i == most {
				add("", fmt.Sprintf("… and %d more turns", len(ms)-most))
				break
			}
			add(prefix+m.Role, m.Content)
		}
	}
	add("text", x.Text)
	turns("", x.Messages)
	turns("chosen: ", x.Chosen)
	turns("rejected: ", x.Rejected)
	for i, c := range x.Choices[:min(len(x.Choices), 8)] {
		name := "choice"
		if i == int(x.Gold) {
			name = "choice ✓"
		}
		add(name, c)
	}
	add("answer", x.Answer)
	if x.Source != x.ID {
		add("source", x.Source)
	}
	add("meta", x.Meta)
	return v
}

func viewPacked(x artifact.Packed) rowView {
	v := rowView{ID: clip(strings.Join(x.Rows[:min(len(x.Rows), 3)], ", "), 120)}
	n := float64(len(x.IDs))
	if n == 0 {
		return v
	}
	s := &strip{}
	learned := 0
	for i := 0; i+1 < len(x.Loss) && len(s.Learned) < 200; i += 2 {
		from, to := x.Loss[i], x.Loss[i+1]
		if from < 0 || to < from || int(to) > len(x.IDs) {
			continue
		}
		learned += int(to - from)
		s.Learned = append(s.Learned, span{percent(100 * float64(from) / n), percent(100 * float64(to-from) / n)})
	}
	for _, at := range x.Starts[:min(len(x.Starts), 200)] {
		s.Starts = append(s.Starts, percent(100*float64(at)/n))
	}
	s.Text = fmt.Sprintf("%s tokens of %s; %s are learned", integer(int64(len(x.IDs))), counted(len(x.Starts), "document"), integer(int64(learned)))
	v.Strip = s
	return v
}
