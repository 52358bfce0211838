package engine

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

// A RowDiff is what two datasets do not have in common. Rows are compared by
// content; ids and sources, which often are numbers of lines, tell only which
// of the rows that differ were the same row before.
type RowDiff struct {
	Was     int64 `json:"was"` // rows before
	Is      int64 `json:"is"`  // rows now
	Added   int64 `json:"added"`
	Removed int64 `json:"removed"`
	Changed int64 `json:"changed"` // rows of the same id with other content
	Moved   bool  `json:"moved"`   // no row differs, but their order or ids do

	Samples []RowSample `json:"samples,omitempty"`
}

// A RowSample is one row that differs.
type RowSample struct {
	Sign string `json:"sign"` // "+", "-", or "~" for a row that changed
	ID   string `json:"id"`
	Text string `json:"text"` // its beginning; of a row that changed what differs
	Was  string `json:"was,omitempty"`
}

// String returns the difference in words, such as: 3 of 412 rows changed, 12
// rows more.
func (d *RowDiff) String() string {
	var parts []string
	say := func(n int64, format string, args ...any) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	say(d.Changed, "%d of %s changed", d.Changed, rowCount(d.Was))
	say(d.Added, "%s more", rowCount(d.Added))
	say(d.Removed, "%s fewer", rowCount(d.Removed))
	switch {
	case len(parts) > 0:
		return strings.Join(parts, ", ")
	case d.Moved:
		return "the same rows in another order, or with other ids"
	}
	return "the same rows"
}

func rowCount(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return fmt.Sprintf("%d rows", n)
}

// A seenRow is a row of any type as far as comparing goes.
type seenRow struct {
	id      string
	content [sha256.Size]byte
	text    string // for people
	meta    string // likewise, where texts are alike
}

// DiffRows compares two datasets of the store and takes up to samples rows of
// each sort along. Datasets that hold rows of other types than the other cannot
// be compared.
func DiffRows(s *artifact.Store, was, is artifact.Digest, samples int) (*RowDiff, error) {
	old, err := readSeen(s, was)
	if err != nil {
		return nil, err
	}
	now, err := readSeen(s, is)
	if err != nil {
		return nil, err
	}
	d := &RowDiff{Was: int64(len(old)), Is: int64(len(now)), Moved: was != is}
	old, now = unmatched(old, now)
	counts := map[[sha256.Size]byte]int{}
	for _, r := range old {
		counts[r.content]++
	}
	var gone, come []seenRow
	for _, r := range now {
		if counts[r.content]--; counts[r.content] < 0 {
			come = append(come, r)
		}
	}
	for i := len(old) - 1; i >= 0; i-- { // of equal rows the last are those too many
		if r := old[i]; counts[r.content] > 0 {
			counts[r.content]--
			gone = append(gone, r)
		}
	}
	d.pair(gone, come, samples)
	return d, nil
}

// unmatched leaves out the rows that both sides have under the same id.
func unmatched(old, now []seenRow) (a, b []seenRow) {
	type row struct {
		id      string
		content [sha256.Size]byte
	}
	both := map[row]int{}
	for _, r := range now {
		both[row{r.id, r.content}]++
	}
	taken := map[row]int{}
	for _, r := range old {
		if k := (row{r.id, r.content}); both[k] > taken[k] {
			taken[k]++
		} else {
			a = append(a, r)
		}
	}
	for _, r := range now {
		if k := (row{r.id, r.content}); taken[k] > 0 {
			taken[k]--
		} else {
			b = append(b, r)
		}
	}
	return a, b
}

// pair tells rows that changed from rows that came or went. gone is in the
// order opposite to the dataset's.
func (d *RowDiff) pair(gone, come []seenRow, samples int) {
	slices.Reverse(gone)
	before := map[string]int{} // place in gone, by id
	for i, r := range gone {
		before[r.id] = i
	}
	took := map[string]int{}
	sample := func(n *int64, s RowSample) {
		if *n++; took[s.Sign] < samples {
			took[s.Sign]++
			d.Samples = append(d.Samples, s)
		}
	}
	changed := make([]bool, len(gone))
	for _, r := range come {
		i, ok := before[r.id]
		if !ok || r.id == "" || changed[i] {
			sample(&d.Added, RowSample{Sign: "+", ID: r.id, Text: clip(r.text, excerptMiddle)})
			continue
		}
		changed[i] = true
		was, is := excerpts(gone[i].text, r.text)
		if was == is {
			was, is = excerpts(gone[i].meta, r.meta)
		}
		sample(&d.Changed, RowSample{Sign: "~", ID: r.id, Text: is, Was: was})
	}
	for i, r := range gone {
		if !changed[i] {
			sample(&d.Removed, RowSample{Sign: "-", ID: r.id, Text: clip(r.text, excerptMiddle)})
		}
	}
	d.Moved = d.Moved && d.Added+d.Removed+d.Changed == 0
}

// readSeen reads the rows of a dataset, of whatever type they are.
func readSeen(s *artifact.Store, d artifact.Digest) ([]seenRow, error) {
	a, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	return seenIn(a)
}

func seenIn(a *artifact.Artifact) ([]seenRow, error) {
	name, err := artifact.RowType(a)
	if err != nil {
		return nil, err
	}
	switch name {
	case "row":
		return seenRows(a, func(r artifact.Row) (seenRow, any) {
			seen := seenRow{id: r.ID, text: rowText(&r), meta: r.Meta}
			r.ID, r.Source = "", ""
			return seen, r
		})
	case "packed":
		return seenRows(a, func(r artifact.Packed) (seenRow, any) {
			rows := strings.Join(r.Rows, ", ")
			return seenRow{id: rows, text: fmt.Sprintf("%d tokens of %s", len(r.IDs), rows)}, []any{r.IDs, r.Starts, r.Loss}
		})
	case "drop":
		return seenRows(a, func(r artifact.Drop) (seenRow, any) {
			return seenRow{id: r.ID, text: strings.TrimSpace(r.Reason + " " + r.Partner + " " + r.Detail)}, r
		})
	case "point":
		return seenRows(a, func(r artifact.Point) (seenRow, any) {
			return seenRow{id: fmt.Sprintf("%s at step %d", r.Series, r.Step), text: fmt.Sprint(r.Value)}, r.Value
		})
	}
	return nil, fmt.Errorf("it holds %q rows, which this version of pipe cannot compare", name)
}

func seenRows[T any](a *artifact.Artifact, view func(T) (r seenRow, content any)) ([]seenRow, error) {
	var out []seenRow
	for r, err := range artifact.Rows[T](a) {
		if err != nil {
			return nil, err
		}
		seen, content := view(r)
		b, err := json.Marshal(content)
		if err != nil {
			return nil, err
		}
		seen.content = sha256.Sum256(b)
		out = append(out, seen)
	}
	return out, nil
}

// rowText is what a row says, for people: its text, or its turns.
func rowText(r *artifact.Row) string {
	var parts []string
	if r.Text != "" {
		parts = append(parts, r.Text)
	}
	turns := func(label string, ms []artifact.Message) {
		for _, m := range ms {
			parts = append(parts, label+m.Role+": "+m.Content)
		}
	}
	turns("", r.Messages)
	turns("chosen ", r.Chosen)
	turns("rejected ", r.Rejected)
	if len(r.Choices) > 0 {
		parts = append(parts, "choices: "+strings.Join(r.Choices, " | "))
	}
	if r.Answer != "" {
		parts = append(parts, "answer: "+r.Answer)
	}
	return strings.Join(parts, "\n")
}
