// Package compare says whether what one run measured is better or worse than
// what another did.
//
// Where two runs answered the same items, the difference is judged item by item:
// exact McNemar for right-or-wrong metrics, a paired t test for the others, a
// sign test where all items moved by the same amount, with 95 % confidence
// intervals of the difference. All metrics of one comparison are
// one family: their probabilities are adjusted after Holm, so that a night on
// which nothing changed calls any metric better or worse at most once in twenty.
package compare

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

// Level is the chance of a false claim among all metrics of a comparison;
// Power is the chance to see a difference of the size Result.Detectable.
const (
	Level = 0.05
	Power = 0.8
)

// An Outcome says what a difference means.
type Outcome string

// The outcomes. A metric that says neither whether more nor whether less is
// better, or that has no uncertainty, has none.
const (
	Better       Outcome = "better"
	Worse        Outcome = "worse"
	Inconclusive Outcome = "inconclusive" // the difference may be chance
	Unchanged    Outcome = "unchanged"    // every item came out the same
	Missing      Outcome = "missing"      // only one of the runs has it, or they share less than half of its items
)

// A Result is one metric of one stage in two runs.
type Result struct {
	Stage   string  `json:"stage"`
	Metric  string  `json:"metric"`
	N       int     `json:"n"`                  // items that both runs answered; 0 when not paired
	OnlyOld int     `json:"only_old,omitempty"` // items that only one of them answered: these do not count
	OnlyNew int     `json:"only_new,omitempty"`
	Old     float64 `json:"old"` // over the items that count
	New     float64 `json:"new"`
	Delta   float64 `json:"delta"`          // New less Old
	Low     float64 `json:"low"`            // 95 % confidence interval of Delta
	High    float64 `json:"high"`           //
	Test    string  `json:"test,omitempty"` // "mcnemar", "paired t", "sign" or "welch"; empty: not tested
	P       float64 `json:"p"`              // two-sided, of this metric alone
	Holm    float64 `json:"p_holm"`         // adjusted for all metrics of the comparison
	Better  int     `json:"direction"`      // +1 when more is better, -1 when less is, else 0
	Outcome Outcome `json:"outcome,omitempty"`
	// Detectable is the smallest true difference that this many items would have
	// shown with probability Power; 0 when not tested.
	Detectable float64 `json:"detectable,omitempty"`
	Note       string  `json:"note,omitempty"`

	se, df float64
}

// Outputs are the outputs of the stages of a run, by address and name.
type Outputs map[string]map[string]artifact.Object

// Runs compares the metrics that two runs measured, sorted by stage and metric.
// With evals, only stages with items are compared; without, all that have
// metrics.
func Runs(s *artifact.Store, old, new Outputs, evals bool) ([]Result, error) {
	var out []Result
	addrs := slices.Sorted(maps.Keys(new))
	for a := range old {
		if _, ok := new[a]; !ok {
			addrs = append(addrs, a)
		}
	}
	slices.Sort(addrs)
	for _, a := range addrs {
		if evals && !measured(old[a], true) && !measured(new[a], true) {
			continue
		}
		rs, err := stage(s, old[a], new[a])
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", a, err)
		}
		for i := range rs {
			rs[i].Stage = a
		}
		out = append(out, rs...)
	}
	judge(out)
	return out, nil
}

// metricsName and itemsName are the outputs of an eval.
const (
	metricsName = "metrics"
	itemsName   = "items"
)

func measured(o map[string]artifact.Object, items bool) bool {
	ok := o[metricsName].Type == artifact.Metrics
	return ok && (!items || o[itemsName].Type == artifact.Dataset)
}

// stage compares the metrics of one stage.
func stage(s *artifact.Store, old, new map[string]artifact.Object) ([]Result, error) {
	var files [2]artifact.MetricsFile
	var each [2]answers
	for i, o := range []map[string]artifact.Object{old, new} {
		if !measured(o, false) {
			continue
		}
		a, err := s.Open(o[metricsName].Digest)
		if err != nil {
			return nil, lost(err, i)
		}
		if err := artifact.ReadJSON(a, artifact.MetricsName, &files[i]); err != nil {
			return nil, err
		}
		each[i] = noAnswers()
		if measured(o, true) {
			if a, err = s.Open(o[itemsName].Digest); err != nil {
				return nil, lost(err, i)
			}
			if each[i], err = readItems(a); err != nil {
				return nil, err
			}
		}
		if err := each[i].add(files[i].Items); err != nil {
			return nil, err
		}
	}
	names := slices.Collect(maps.Keys(files[1].Metrics))
	for n := range files[0].Metrics {
		if _, ok := files[1].Metrics[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	var out []Result
	for _, n := range names {
		r := Result{Metric: n}
		a, inOld := files[0].Metrics[n]
		b, inNew := files[1].Metrics[n]
		r.Old, r.New, r.Better = a.Value, b.Value, cmp.Or(b.Better, a.Better)
		if inOld && inNew {
			metric(&r, a, b, each[0], each[1])
		} else {
			r.Outcome, r.Note = Missing, "only the newer run has it"
			if inOld {
				r.Note = "the newer run does not have it"
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// lost says of which of two runs the store has no results any more.
func lost(err error, run int) error {
	if !errors.Is(err, artifact.ErrNotFound) {
		return err
	}
	which := []string{"older", "newer"}[run]
	return fmt.Errorf("what the %s run measured is no longer in the store, as after pipe gc; pipe pin keeps a run: %w", which, err)
}

// metric fills in a metric that both runs have.
func metric(r *Result, a, b artifact.Metric, old, new answers) {
	suite, name, _ := strings.Cut(r.Metric, ".")
	r.P, r.Holm = 1, 1
	if (name == "perplexity" || name == "bits_per_byte") && new.has(suite+".nll") {
		r.Delta, r.Note = r.New-r.Old, "follows from "+suite+".nll"
		return
	}
	p, ok := pair(r.Metric, old, new)
	if !ok {
		if old.same(new, suite) || a == b {
			r.Outcome = Unchanged
			return
		}
		welch(r, a, b)
		return
	}
	r.N, r.OnlyOld, r.OnlyNew = len(p.old), p.onlyOld, p.onlyNew
	if r.OnlyOld+r.OnlyNew > 0 {
		r.Note = fmt.Sprintf("items that left: %d, new ones: %d; those that stayed are compared", r.OnlyOld, r.OnlyNew)
	}
	if 2*r.N < r.N+max(r.OnlyOld, r.OnlyNew) {
		r.Old, r.New, r.Delta = a.Value, b.Value, b.Value-a.Value
		r.Outcome, r.Note = Missing, fmt.Sprintf("items in both runs: %d; that left: %d, new ones: %d", r.N, r.OnlyOld, r.OnlyNew)
		return
	}
	p.judge(r)
}

// welch tests two samples as if other items had been measured (Welch 1947).
func welch(r *Result, a, b artifact.Metric) {
	r.Delta = b.Value - a.Value
	va, vb := a.Stderr*a.Stderr, b.Stderr*b.Stderr
	r.se = math.Sqrt(va + vb)
	if r.se == 0 || math.IsNaN(r.se) || a.N < 2 || b.N < 2 {
		r.Low, r.High = r.Delta, r.Delta
		return
	}
	r.Test, r.Note = "welch", "no values item by item: compared as if other items had been measured"
	r.df = (va + vb) * (va + vb) / (va*va/float64(a.N-1) + vb*vb/float64(b.N-1))
	r.interval()
}

// interval sets P and the interval from Delta, se and df.
func (r *Result) interval() {
	if r.se > 0 {
		r.P = tail(r.Delta/r.se, r.df)
	}
	h := Quantile(0.975, r.df) * r.se
	r.Low, r.High = r.Delta-h, r.Delta+h
}

// judge adjusts the probabilities of all tests and sets the outcomes that they
// decide.
func judge(rs []Result) {
	var tested []int
	var ps []float64
	for i, r := range rs {
		if r.Test != "" && r.Better != 0 {
			tested, ps = append(tested, i), append(ps, r.P)
		}
	}
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(ps[a], ps[b]) })
	adjusted := holm(ps, order)
	m := float64(len(ps))
	for k, i := range tested {
		r := &rs[i]
		r.Holm = adjusted[k]
		r.Detectable = (Quantile(1-Level/2/m, r.df) + normalQuantile(Power)) * r.se
		switch d := float64(r.Better) * r.Delta; {
		case !(r.Holm <= Level) || d == 0: // NaN too
			r.Outcome = Inconclusive
		case d > 0:
			r.Outcome = Better
		default:
			r.Outcome = Worse
		}
	}
}

// Count returns how many results have that outcome.
func Count(rs []Result, o Outcome) (n int) {
	for _, r := range rs {
		if r.Outcome == o {
			n++
		}
	}
	return n
}

// Verdict says what a change within one run, tuned less base, means: better or
// worse when its 95 % confidence interval (Student's t) does not hold 0, unclear
// when it does, nothing when there is nothing to say. Items that all changed by the
// same amount give an interval without width, however few they are: then chance
// must be below Level by the sign test, which takes six.
func Verdict(c artifact.Metric) string {
	switch d := float64(c.Better) * c.Value; {
	case d == 0:
		return ""
	case alike(c.Value, c.Stderr) && signs(c.N) > Level:
		return "unclear"
	case c.N < 2 || !(math.Abs(c.Value) > Quantile(0.975, float64(c.N-1))*c.Stderr): // NaN too
		return "unclear"
	case d > 0:
		return "better"
	}
	return "worse"
}

// Change returns tuned less base of one metric: as the file has it, item by
// item, else as if other items had been measured. It is false without a base.
func Change(m artifact.MetricsFile, name string) (artifact.Metric, bool) {
	v := m.Metrics[name]
	b, ok := m.Baseline[name]
	if !ok {
		return artifact.Metric{}, false
	}
	c, ok := m.Change[name]
	if !ok {
		c = artifact.Metric{N: min(v.N, b.N), Value: v.Value - b.Value, Stderr: math.Hypot(v.Stderr, b.Stderr), Better: v.Better}
	}
	return c, true
}

// Regressed reports whether the results are worse, and says in one line what
// they are. When strict, what is not certain is a regression too.
func Regressed(rs []Result, strict bool) (bool, string) {
	list := func(o Outcome) (n int, names string) {
		for _, r := range rs {
			if r.Outcome == o {
				if n++; n <= 5 {
					names += ", " + r.Stage + " " + r.Metric
				}
			}
		}
		if n > 5 {
			names += fmt.Sprintf(" and %d more", n-5)
		}
		return n, strings.TrimPrefix(names, ", ")
	}
	var parts []string
	counts := map[Outcome]int{}
	for _, o := range []Outcome{Worse, Better, Inconclusive, Unchanged, Missing} {
		n, names := list(o)
		counts[o] = n
		switch {
		case n == 0:
		case o == Inconclusive || o == Unchanged:
			parts = append(parts, fmt.Sprintf("%d %s", n, o))
		default:
			parts = append(parts, fmt.Sprintf("%d %s (%s)", n, o, names))
		}
	}
	text := strings.Join(parts, ", ")
	if text == "" {
		text = "there is no eval"
	}
	bad := counts[Worse] > 0 || strict && counts[Inconclusive]+counts[Missing] > 0
	switch {
	case counts[Worse] > 0:
		text = "regression: " + text
	case bad:
		text = "not certain: " + text
	case counts[Better]+counts[Inconclusive]+counts[Unchanged] == 0:
		text = "nothing was compared: " + text
	default:
		text = "no regression: " + text
	}
	return bad, text
}
