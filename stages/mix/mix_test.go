package mix

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage/stagetest"
)

// rows returns n rows of the given number of bytes.
func rows(prefix string, n, bytes int) []artifact.Row {
	out := make([]artifact.Row, n)
	for i := range out {
		out[i] = artifact.Row{ID: fmt.Sprint(prefix, i), Text: strings.Repeat("x", bytes), Gold: -1, Source: prefix + ".txt"}
	}
	return out
}

type part struct {
	name   string
	rows   []artifact.Row
	weight float64
	repeat int
}

func try(t *testing.T, seed uint64, edit func(b *stagetest.Bench, s *spec), parts ...part) (*stagetest.Result, error) {
	t.Helper()
	b := stagetest.New(t)
	b.Seed = seed
	s := newStage().(*spec)
	for _, p := range parts {
		var src source
		src.SetDefaults()
		src.Name, src.Input, src.Weight = p.name, stagetest.Dataset(b, p.rows...), p.weight
		if p.repeat != 0 {
			src.MaxRepeat = p.repeat
		}
		s.Sources = append(s.Sources, src)
	}
	if edit != nil {
		edit(b, s)
	}
	return b.Try(context.Background(), Kind, s)
}

func run(t *testing.T, edit func(b *stagetest.Bench, s *spec), parts ...part) ([]artifact.Row, *stagetest.Result) {
	t.Helper()
	r, err := try(t, 1, edit, parts...)
	if err != nil {
		t.Fatal(err)
	}
	return stagetest.Rows[artifact.Row](r, "dataset"), r
}

// counts returns how often each row was drawn, by source, from meta.
func counts(t *testing.T, mixed []artifact.Row) map[string]int {
	t.Helper()
	n, seen := map[string]int{}, map[string]bool{}
	for _, r := range mixed {
		var meta struct{ Mix string }
		if err := json.Unmarshal([]byte(r.Meta), &meta); err != nil {
			t.Fatal(err)
		}
		n[meta.Mix]++
		if seen[r.ID] {
			t.Errorf("id %q occurs twice", r.ID)
		}
		seen[r.ID] = true
	}
	return n
}

func TestShareOfLargestWeight(t *testing.T) {
	mixed, r := run(t, nil, part{"legal", rows("l", 90, 400), 0.9, 0}, part{"general", rows("g", 500, 400), 0.1, 0})
	if n := counts(t, mixed); n["legal"] != 90 || n["general"] != 10 {
		t.Errorf("drawn %v; want 90 and 10", n)
	}
	m := r.Metrics("metrics").Metrics
	if m["general.share"].Value != 0.1 || m["legal.passes"].Value != 1 || m["mix.tokens"].Value != 10000 {
		t.Errorf("metrics %+v", m)
	}
	if mixed[0].Source == mixed[1].Source && mixed[1].Source == mixed[2].Source && mixed[0].ID == "l0" {
		t.Error("the rows are not shuffled")
	}
}

func TestSmallSourceRepeats(t *testing.T) {
	mixed, r := run(t, nil, part{"legal", rows("l", 80, 40), 0.8, 0}, part{"general", rows("g", 8, 40), 0.2, 3})
	if n := counts(t, mixed); n["legal"] != 80 || n["general"] != 20 {
		t.Errorf("drawn %v; want 80 and 20", n)
	}
	times := map[string]int{}
	for _, x := range mixed {
		id, _, _ := strings.Cut(x.ID, "~")
		times[id]++
	}
	for i := range 8 {
		if n := times[fmt.Sprint("g", i)]; n < 2 || n > 3 {
			t.Errorf("row g%d is drawn %d times; want 2 or 3", i, n)
		}
	}
	if strings.Contains(strings.Join(r.Notes, "\n"), "too small") {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestTooSmallSource(t *testing.T) {
	mixed, r := run(t, nil, part{"legal", rows("l", 80, 40), 0.8, 0}, part{"general", rows("g", 2, 40), 0.2, 3})
	if n := counts(t, mixed); n["legal"] != 80 || n["general"] != 6 {
		t.Errorf("drawn %v; want 80 and 6", n)
	}
	if !strings.Contains(strings.Join(r.Notes, "\n"), "general is too small for its weight even when each of its rows is drawn 3 times") {
		t.Errorf("notes %q", r.Notes)
	}
	if m := r.Metrics("metrics").Metrics["general.share"]; math.Abs(m.Value-6.0/86) > 1e-12 {
		t.Errorf("share %v", m.Value)
	}
}

func TestTotal(t *testing.T) {
	mixed, _ := run(t, func(_ *stagetest.Bench, s *spec) { s.Tokens = 400 }, part{"a", rows("a", 100, 40), 3, 0}, part{"b", rows("b", 100, 40), 1, 0})
	if n := counts(t, mixed); n["a"] != 30 || n["b"] != 10 {
		t.Errorf("drawn %v; want 30 and 10", n)
	}
}

func TestTokenizerCounts(t *testing.T) {
	// One token a byte in the test model: a row of "é" has two, and four bytes
	// of either kind count as one without it.
	two := rows("b", 100, 0)
	for i := range two {
		two[i].Text = "éééé"
	}
	_, r := run(t, func(b *stagetest.Bench, s *spec) { m := b.Model(modeltest.Directory(t, true)); s.Model = &m },
		part{"a", rows("a", 10, 8), 0.5, 0}, part{"b", two, 0.5, 0})
	if m := r.Metrics("metrics").Metrics; m["mix.tokens"].Value != 160 {
		t.Errorf("%v tokens; want 160", m["mix.tokens"].Value)
	}
}

func TestLengthCountsEveryText(t *testing.T) {
	r := artifact.Row{Text: "1", Answer: "22", Choices: []string{"333"}, Messages: []artifact.Message{{Content: "4444"}},
		Chosen: []artifact.Message{{Content: "55555"}}, Rejected: []artifact.Message{{Content: "666666"}}}
	if n := length(&r, func(s string) int { return len(s) }); n != 21 {
		t.Errorf("length %d; want 21", n)
	}
	if n := length(&artifact.Row{}, estimate); n != 1 {
		t.Errorf("length of an empty row %d; want 1", n)
	}
}

func TestIDsAndMeta(t *testing.T) {
	a, b := rows("r", 2, 4), rows("r", 2, 4)
	a[0].Meta, b[1].ID = `{"z":"<","mix":"old","a":1}`, "own"
	mixed, _ := run(t, nil, part{"x", a, 1, 0}, part{"y", b, 1, 0})
	got := map[string]string{}
	for _, r := range mixed {
		got[r.ID] = r.Meta
	}
	want := map[string]string{"x:r0": `{"a":1,"mix":"x","z":"<"}`, "r1": `{"mix":"x"}`, "y:r0": `{"mix":"y"}`, "own": `{"mix":"y"}`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestSeed(t *testing.T) {
	parts := []part{{"a", rows("a", 50, 40), 1, 0}, {"b", rows("b", 500, 40), 1, 0}}
	var got [3][]artifact.Row
	for i, seed := range []uint64{1, 1, 2} {
		r, err := try(t, seed, nil, parts...)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = stagetest.Rows[artifact.Row](r, "dataset")
	}
	if !reflect.DeepEqual(got[0], got[1]) || reflect.DeepEqual(got[0], got[2]) {
		t.Error("the rows are not a function of the seed")
	}
}

func TestErrors(t *testing.T) {
	ok := part{"a", rows("a", 1, 4), 1, 0}
	for _, c := range []struct {
		want  string
		parts []part
	}{
		{"mix needs a source", nil},
		{`source["a"].weight: is 0`, []part{{"a", ok.rows, 0, 0}}},
		{`source["a"].weight: is NaN`, []part{{"a", ok.rows, math.NaN(), 0}}},
		{`source["a"].max_repeat: is -1`, []part{{"a", ok.rows, 1, -1}}},
		{`source["a b"].name: is "a b"`, []part{{"a b", ok.rows, 1, 0}}},
		{`source["b"].input: data.test has no rows`, []part{ok, {"b", nil, 1, 0}}},
	} {
		if _, err := try(t, 1, nil, c.parts...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
}

// Whatever the sources, each gives its part to within half of its longest row,
// rows are drawn evenly, and none more often than it may.
func TestDrawProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.IntRange(1, 50), 1, 30).Draw(t, "lengths")
		passes := rapid.IntRange(1, 5).Draw(t, "passes")
		sum, longest := 0, 0
		for _, n := range lengths {
			sum, longest = sum+n, max(longest, n)
		}
		want := rapid.IntRange(0, sum*passes).Draw(t, "want")
		forward := make([]int, len(lengths))
		for i := range forward {
			forward[i] = i
		}
		times, got := make([]int, len(lengths)), 0
		for _, i := range draw(lengths, want, passes, func(int) []int { return forward }) {
			times[i]++
			got += lengths[i]
		}
		least, most := times[0], times[0]
		for _, n := range times {
			least, most = min(least, n), max(most, n)
		}
		if most > passes || most-least > 1 || got == 0 {
			t.Fatalf("rows are drawn %v times in %d passes", times, passes)
		}
		if off := got - want; want >= longest && 2*max(off, -off) > longest {
			t.Fatalf("%d tokens for %d", got, want)
		}
	})
}

func TestShares(t *testing.T) {
	for _, c := range []struct {
		sources []supply
		total   int
		want    []int
		short   []bool
	}{
		{[]supply{{1, 100, 1}, {1, 300, 1}}, 0, []int{100, 100}, []bool{false, false}},
		{[]supply{{1, 300, 1}, {1, 100, 1}}, 0, []int{300, 100}, []bool{false, true}},
		{[]supply{{1, 300, 1}, {1, 100, 4}}, 0, []int{300, 300}, []bool{false, false}},
		{[]supply{{9, 900, 1}, {1, 1 << 40, 1}}, 0, []int{900, 100}, []bool{false, false}},
		{[]supply{{0.1, 50, 2}, {0.9, 1000, 1}}, 2000, []int{100, 1000}, []bool{true, true}},
	} {
		if got, short := shares(c.sources, c.total); !reflect.DeepEqual(got, c.want) || !reflect.DeepEqual(short, c.short) {
			t.Errorf("shares(%v, %d) = %v, %v; want %v, %v", c.sources, c.total, got, short, c.want, c.short)
		}
	}
}
