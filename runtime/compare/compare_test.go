package compare

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/runtime/artifact"
)

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// The values are those of printed tables and of R's qt, pt and binom.test.
func TestDistributions(t *testing.T) {
	for df, want := range map[float64]float64{1: 12.70620, 2: 4.302653, 3: 3.182446, 10: 2.228139, 30: 2.042272, 100: 1.983972, 1e9: 1.959964} {
		near(t, fmt.Sprintf("t quantile of %v", df), Quantile(0.975, df), want, 1e-5)
	}
	near(t, "t quantile 0.995 of 10", Quantile(0.995, 10), 3.169273, 1e-6)
	near(t, "tail of 2 with 10", tail(2, 10), 0.07338803, 1e-8)
	near(t, "tail of -2.228139 with 10", tail(-2.228139, 10), 0.05, 1e-7)
	near(t, "tail of 40 with 1000", tail(40, 1000), 0, 1e-100)
	near(t, "tail of 0", tail(0, 5), 1, 1e-12)
	near(t, "1 to 9", mcnemar(1, 9), 0.02148438, 1e-8)
	near(t, "10 to 20", mcnemar(10, 20), 0.09873715, 1e-8)
	near(t, "5 to 5", mcnemar(5, 5), 1, 0)
	near(t, "0 to 0", mcnemar(0, 0), 1, 0)
	near(t, "many", mcnemar(50000, 50500), 0.1154, 2e-3)
	got := holm([]float64{0.01, 0.04, 0.03, 0.005}, []int{3, 0, 2, 1})
	for i, want := range []float64{0.03, 0.06, 0.06, 0.02} {
		near(t, "Holm", got[i], want, 1e-12)
	}
}

// An eval of the tests: items with their details, and the metrics beside them.
type evaluation struct {
	items   []artifact.Row
	metrics map[string]artifact.Metric
}

func (e evaluation) put(t *testing.T, s *artifact.Store) map[string]artifact.Object {
	t.Helper()
	w, err := s.Create(artifact.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{Metrics: e.metrics}); err != nil {
		t.Fatal(err)
	}
	out := map[string]artifact.Object{}
	if out["metrics"], err = w.Commit(); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Create(artifact.Dataset); err != nil {
		t.Fatal(err)
	}
	if err := artifact.Append(w, e.items...); err != nil {
		t.Fatal(err)
	}
	if out["items"], err = w.Commit(); err != nil {
		t.Fatal(err)
	}
	return out
}

// choices makes a multiple-choice suite whose item i is right when right says so.
func (e *evaluation) choices(suite string, n int, right func(i int) bool) {
	if e.metrics == nil {
		e.metrics = map[string]artifact.Metric{}
	}
	sum := 0.0
	for i := range n {
		e.add(suite, fmt.Sprint(i), artifact.Row{Text: fmt.Sprint("question ", i)}, map[string]any{"correct": right(i)})
		sum += number(right(i))
	}
	e.metrics[suite+".acc"] = artifact.Metric{N: n, Value: sum / float64(n), Stderr: 0.05, Better: 1}
}

func (e *evaluation) add(suite, id string, r artifact.Row, meta map[string]any) {
	b, err := json.Marshal(meta)
	if err != nil {
		panic(err)
	}
	r.ID, r.Source, r.Meta, r.Gold = suite+"/"+id, id, string(b), -1
	e.items = append(e.items, r)
}

func store(t *testing.T) *artifact.Store {
	t.Helper()
	s, err := artifact.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compared(t *testing.T, old, new evaluation) map[string]Result {
	t.Helper()
	s := store(t)
	rs, err := Runs(s, Outputs{"eval.e": old.put(t, s)}, Outputs{"eval.e": new.put(t, s)}, true)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Result{}
	for _, r := range rs {
		out[r.Metric] = r
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
	}
	return out
}

// What both runs get right and wrong alike cancels out: 9 of 10 differing items
// are enough although the two accuracies lie within each other's error.
func TestRightOrWrongIsPaired(t *testing.T) {
	var old, new evaluation
	old.choices("qa", 60, func(i int) bool { return i < 31 })
	new.choices("qa", 60, func(i int) bool { return i < 22 || i == 59 })
	r := compared(t, old, new)["qa.acc"]
	if r.Outcome != Worse || r.Test != "mcnemar" || r.N != 60 {
		t.Errorf("%+v", r)
	}
	near(t, "p", r.P, 0.02148438, 1e-8)
	near(t, "delta", r.Delta, -8.0/60, 1e-12)
	// Agresti and Min: 9.5 lost, 1.5 won, of 62.
	near(t, "low", r.Low, -8.0/62-1.959964*math.Sqrt(11-64.0/62)/62, 1e-6)
	near(t, "high", r.High, -8.0/62+1.959964*math.Sqrt(11-64.0/62)/62, 1e-6)

	same := compared(t, old, old)["qa.acc"]
	if same.Outcome != Unchanged {
		t.Errorf("%+v", same)
	}
	new = evaluation{}
	new.choices("qa", 60, func(i int) bool { return i < 29 })
	r = compared(t, old, new)["qa.acc"]
	if r.Outcome != Inconclusive || !(r.Detectable > 0.03 && r.Detectable < 0.2) {
		t.Errorf("%+v", r)
	}
}

// An item that was edited is another item; one that left does not count.
func TestOnlySharedItemsCount(t *testing.T) {
	var old, new evaluation
	old.choices("qa", 20, func(i int) bool { return i%2 == 0 })
	new.choices("qa", 20, func(i int) bool { return i%4 == 0 })
	new.items[3].Text = "another question"
	r := compared(t, old, new)["qa.acc"]
	if r.N != 19 || r.OnlyOld != 1 || r.OnlyNew != 1 || r.Note == "" {
		t.Errorf("%+v", r)
	}
	near(t, "old", r.Old, 10.0/19, 1e-12)
	for i := range new.items {
		new.items[i].Text += "!"
	}
	if r := compared(t, old, new)["qa.acc"]; r.Outcome != Missing {
		t.Errorf("%+v", r)
	}
}

// Rows without an id are named by their line: an item that is written above the
// others moves them all, and changes none. Copies of a question are paired in order.
func TestItemsThatMovedAreTheSame(t *testing.T) {
	var old, new evaluation
	old.choices("qa", 20, func(i int) bool { return i%2 == 0 })
	old.items[7].Text = old.items[4].Text
	new.choices("qa", 20, func(i int) bool { return i%2 == 0 })
	new.items[7].Text = new.items[4].Text
	for i := range new.items {
		new.items[i].ID, new.items[i].Source = fmt.Sprint("qa/tests.jsonl:", i+2), fmt.Sprint("tests.jsonl:", i+2)
	}
	first := artifact.Row{ID: "qa/tests.jsonl:1", Source: "tests.jsonl:1", Text: "the new one", Gold: -1, Meta: `{"correct":true}`}
	new.items = slices.Insert(new.items, 0, first)
	r := compared(t, old, new)["qa.acc"]
	if r.Outcome != Unchanged || r.N != 20 || r.OnlyOld != 0 || r.OnlyNew != 1 {
		t.Errorf("%+v", r)
	}
	new.items[8].Meta = `{"correct":true}` // the second copy was wrong
	if r = compared(t, old, new)["qa.acc"]; r.N != 20 || math.Abs(r.Delta-0.05) > 1e-12 {
		t.Errorf("%+v", r)
	}
}

// Perplexity is a ratio: long texts weigh more, and nll alone is tested.
func TestLossIsARatioOverTokens(t *testing.T) {
	make := func(shift float64) evaluation {
		e := evaluation{metrics: map[string]artifact.Metric{}}
		for i := range 30 {
			tokens := float64(10 + i)
			e.add("prose", fmt.Sprint(i), artifact.Row{Text: fmt.Sprint(i)}, map[string]any{
				"nll": tokens * (2 + shift + 0.01*math.Sin(float64(i)*(1+shift))), "tokens": tokens, "bytes": 4 * tokens,
			})
		}
		for _, m := range []string{"nll", "perplexity", "bits_per_byte"} {
			e.metrics["prose."+m] = artifact.Metric{N: 30, Value: 2 + shift, Stderr: 0.3, Better: -1}
		}
		return e
	}
	rs := compared(t, make(0), make(0.1))
	r := rs["prose.nll"]
	if r.Outcome != Worse || r.Test != "paired t" || !(r.Low > 0.09 && r.High < 0.11) {
		t.Errorf("%+v", r)
	}
	if p := rs["prose.perplexity"]; p.Test != "" || p.Outcome != "" || p.Note == "" {
		t.Errorf("%+v", p)
	}
}

// Without values item by item the runs are two samples, and less can be said.
func TestWithoutItemsTwoSamplesAreCompared(t *testing.T) {
	var old, new evaluation
	old.choices("qa", 40, func(i int) bool { return i < 20 })
	new.choices("qa", 40, func(i int) bool { return i < 21 })
	old.metrics["qa.contains"] = artifact.Metric{N: 40, Value: 0.5, Stderr: 0.05, Better: 1}
	new.metrics["qa.contains"] = artifact.Metric{N: 40, Value: 0.9, Stderr: 0.05, Better: 1}
	old.metrics["qa.gone"] = artifact.Metric{N: 40, Value: 0.5, Stderr: 0.05, Better: 1}
	rs := compared(t, old, new)
	if r := rs["qa.contains"]; r.Test != "welch" || r.Outcome != Better {
		t.Errorf("%+v", r)
	}
	if r := rs["qa.gone"]; r.Outcome != Missing {
		t.Errorf("%+v", r)
	}
	// A suite that came out the same to the last answer did not change.
	new.items, new.metrics = old.items, map[string]artifact.Metric{"qa.contains": old.metrics["qa.contains"]}
	if r := compared(t, old, new)["qa.contains"]; r.Outcome != Unchanged {
		t.Errorf("%+v", r)
	}
}

// On nights on which nothing really changed, claims are rare, however many
// metrics there are.
func TestFalseClaimsAreRare(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const nights = 2000
	claims := 0
	for range nights {
		var rs []Result
		for m := range 6 {
			p := pairing{binary: m%2 == 0}
			for range 50 {
				a, b := rng.NormFloat64(), rng.NormFloat64()
				if p.binary {
					a, b = number(a > 0), number(b > 0)
				}
				p.old, p.new = append(p.old, share{a, 1}), append(p.new, share{b, 1})
			}
			r := Result{N: 50, Better: 1}
			p.judge(&r)
			rs = append(rs, r)
		}
		judge(rs)
		if Count(rs, Better)+Count(rs, Worse) > 0 {
			claims++
		}
	}
	if rate := float64(claims) / nights; rate > 0.06 || rate < 0.01 {
		t.Errorf("of %d nights without a change, %.3f claimed one", nights, rate)
	}
}

// A difference of the detectable size is found about as often as Power says.
func TestDetectableDifferenceIsDetected(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	draw := func(shift float64) []Result {
		p := pairing{}
		for range 80 {
			common := 3 * rng.NormFloat64()
			p.old = append(p.old, share{common + rng.NormFloat64(), 1})
			p.new = append(p.new, share{common + rng.NormFloat64() + shift, 1})
		}
		rs := []Result{{N: 80, Better: 1}}
		p.judge(&rs[0])
		judge(rs)
		return rs
	}
	shift := 0.0
	for range 100 {
		shift += draw(0)[0].Detectable / 100
	}
	found := 0
	for range 1000 {
		found += Count(draw(shift), Better)
	}
	if found < 750 || found > 850 {
		t.Errorf("a difference of %.3f was found %d times of 1000", shift, found)
	}
}

// A night on which few items all moved by the same amount proves nothing.
func TestFewItemsThatMovedAlikeAreInconclusive(t *testing.T) {
	for n, want := range map[int]Outcome{2: Inconclusive, 5: Inconclusive, 6: Better, 40: Better} {
		p := pairing{}
		for i := range n {
			p.old, p.new = append(p.old, share{0.1 * float64(i), 1}), append(p.new, share{0.1*float64(i) + 0.3, 1})
		}
		rs := []Result{{N: n, Better: 1}}
		p.judge(&rs[0])
		judge(rs)
		if r := rs[0]; r.Outcome != want || r.Test != "sign" || !(math.Abs(r.P-2*math.Pow(0.5, float64(n))) < 1e-12) {
			t.Errorf("%d items: %+v", n, r)
		}
	}
}

// A change is called one when 0 lies outside its 95 % confidence interval.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		m    artifact.Metric
		want string
	}{
		{artifact.Metric{N: 12, Value: 0.22, Stderr: 0.1, Better: 1}, "unclear"},
		{artifact.Metric{N: 12, Value: 0.23, Stderr: 0.1, Better: 1}, "better"},
		{artifact.Metric{N: 12, Value: 0.23, Stderr: 0.1, Better: -1}, "worse"},
		{artifact.Metric{N: 12, Value: -0.23, Stderr: 0.1, Better: -1}, "better"},
		{artifact.Metric{N: 1, Value: 9, Better: 1}, "unclear"},
		{artifact.Metric{N: 2, Value: 1, Better: 1}, "unclear"}, // both pairs came out right: one time in two by chance
		{artifact.Metric{N: 5, Value: 1, Better: 1}, "unclear"},
		{artifact.Metric{N: 5, Value: 0.3, Stderr: 1e-17, Better: 1}, "unclear"},
		{artifact.Metric{N: 6, Value: 1, Better: 1}, "better"},
		{artifact.Metric{N: 6, Value: 1, Better: -1}, "worse"},
		{artifact.Metric{N: 9, Value: 0, Stderr: 1, Better: 1}, ""},
		{artifact.Metric{N: 9, Value: 5, Stderr: 1}, ""},
		{artifact.Metric{N: 9, Value: math.NaN(), Stderr: 1, Better: 1}, "unclear"},
	} {
		if got := Verdict(c.m); got != c.want {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
}

func TestDamagedItemsAreErrors(t *testing.T) {
	var e evaluation
	e.choices("qa", 3, func(int) bool { return true })
	e.items[1].Meta = "{"
	s := store(t)
	o := e.put(t, s)
	if _, err := Runs(s, Outputs{"eval.e": o}, Outputs{"eval.e": o}, true); err == nil {
		t.Error("no error")
	}
	// A stage that only one run has.
	e.items[1].Meta = "{}"
	rs, err := Runs(s, Outputs{}, Outputs{"eval.e": e.put(t, s)}, true)
	if err != nil || !slices.ContainsFunc(rs, func(r Result) bool { return r.Outcome == Missing && r.Stage == "eval.e" }) {
		t.Errorf("%+v, %v", rs, err)
	}
}
