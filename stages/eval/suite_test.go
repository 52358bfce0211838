package eval

import (
	"fmt"
	"testing"

	"pipe/runtime/artifact"
)

// TestRowsThatComeMoveNoOthers adds a row above the others of a suite with a limit:
// what is asked stays, but for the one that it takes the place of.
func TestRowsThatComeMoveNoOthers(t *testing.T) {
	rows := func(from int) (list []artifact.Row) {
		for i := from; i < 300; i++ {
			list = append(list, ask(fmt.Sprint("rows.jsonl:", i-from+1), fmt.Sprint("question ", i)))
		}
		return list
	}
	b := newBench(t, nil)
	chosen := func(seed uint64, list []artifact.Row) map[string]bool {
		u := newSuite("s", b.data(list...))
		u.Limit = 40
		b.seed = seed
		got, err := u.rows(b.env(nil))
		if err != nil || len(got) != 40 {
			t.Fatal(len(got), err)
		}
		texts := map[string]bool{}
		for _, r := range got {
			texts[question(r)[0].Content] = true
		}
		return texts
	}
	was := chosen(1, rows(1))
	common := func(other map[string]bool) (n int) {
		for text := range other {
			if was[text] {
				n++
			}
		}
		return n
	}
	if n := common(chosen(1, rows(0))); n < 39 {
		t.Errorf("%d of 40 rows are still asked when one was added", n)
	}
	if n := common(chosen(2, rows(1))); n > 20 {
		t.Errorf("another seed chooses %d of the same 40 of 300 rows", n)
	}
}
