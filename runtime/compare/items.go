package compare

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"pipe/runtime/artifact"
)

// An itemID names an item of a suite by what was asked: one that was edited is
// another, and one that moved to another line, file or id is still itself. Of
// copies of one question the first is paired with the first, and so on.
type itemID struct {
	asked [sha256.Size]byte
	copy  int
}

// A share is what one item adds to a metric Σy/Σx; x is 1 for a mean.
type share struct{ y, x float64 }

// answers are the items that an eval wrote, by suite and metric.
type answers struct {
	metrics map[string]map[itemID]share // by "SUITE.METRIC"
	suites  map[string][sha256.Size]byte
	order   map[string][]itemID // of each suite
}

func (a answers) has(metric string) bool { return len(a.metrics[metric]) > 0 }

// same reports whether a suite came out the same to the last answer.
func (a answers) same(b answers, suite string) bool {
	d, ok := a.suites[suite]
	e, ok2 := b.suites[suite]
	return ok && ok2 && d == e
}

// details is the part of an item's meta that says how it went; see the
// eval stage, which writes it.
type details struct {
	Correct  *bool     `json:"correct"`
	Norm     *bool     `json:"correct_norm"`
	Reward   *bool     `json:"reward_correct"`
	Contains *bool     `json:"contains"`
	F1       *float64  `json:"f1"`
	LogProbs []float64 `json:"log_probs"`
	NLL      *float64  `json:"nll"`
	Tokens   float64   `json:"tokens"`
	Bytes    float64   `json:"bytes"`
	Chosen   *float64  `json:"chosen_log_prob"`
	Rejected *float64  `json:"rejected_log_prob"`
	Depth    *float64  `json:"depth"` // of needle items
	Length   *float64  `json:"length"`
}

func noAnswers() answers {
	return answers{metrics: map[string]map[itemID]share{}, suites: map[string][sha256.Size]byte{}, order: map[string][]itemID{}}
}

// readItems reads the items of an eval.
func readItems(a *artifact.Artifact) (answers, error) {
	out := noAnswers()
	type question struct {
		suite string
		asked [sha256.Size]byte
	}
	copies := map[question]int{}
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return out, err
		}
		var d details
		if err := json.Unmarshal([]byte(row.Meta), &d); err != nil {
			return out, fmt.Errorf("item %q: its meta: %w", row.ID, err)
		}
		suite := strings.TrimSuffix(row.ID, "/"+row.Source)
		asked, err := whatWasAsked(row, d)
		if err != nil {
			return out, err
		}
		id := itemID{asked: sha256.Sum256(asked)}
		q := question{suite, id.asked}
		id.copy = copies[q]
		copies[q]++
		sum := out.suites[suite]
		out.suites[suite] = sha256.Sum256([]byte(string(sum[:]) + string(asked) + row.Meta))
		out.order[suite] = append(out.order[suite], id)
		for name, s := range shares(row, d) {
			m := suite + "." + name
			if out.metrics[m] == nil {
				out.metrics[m] = map[itemID]share{}
			}
			out.metrics[m][id] = s
		}
	}
	return out, nil
}

// add adds the items that a stage keeps beside its metrics.
func (a answers) add(items *artifact.Items) error {
	if items == nil {
		return nil
	}
	ids := make([]itemID, len(items.Names))
	copies := map[string]int{}
	for i, n := range items.Names {
		ids[i] = itemID{asked: sha256.Sum256([]byte(n)), copy: copies[n]}
		copies[n]++
	}
	for metric, values := range items.Values {
		if len(values) != len(ids) || items.Weights != nil && len(items.Weights) != len(ids) {
			return fmt.Errorf("%s has %d values and %d weights of %d items", metric, len(values), len(items.Weights), len(ids))
		}
		each := map[itemID]share{}
		for i, v := range values {
			w := 1.0
			if items.Weights != nil {
				w = items.Weights[i]
			}
			each[ids[i]] = share{v * w, w}
		}
		suite, _, _ := strings.Cut(metric, ".")
		a.metrics[metric], a.order[suite] = each, ids
	}
	return nil
}

// whatWasAsked spells what was asked, of a needle with its place.
func whatWasAsked(r artifact.Row, d details) ([]byte, error) {
	r.ID, r.Source, r.Meta = "", "", ""
	return json.Marshal(struct {
		Row           artifact.Row
		Depth, Length *float64
	}{r, d.Depth, d.Length})
}

// shares returns what an item says about each metric of its suite that can be
// told from it.
func shares(r artifact.Row, d details) map[string]share {
	out := map[string]share{}
	mean := func(name string, v float64) {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out[name] = share{v, 1}
		}
	}
	correct := "acc"
	if d.F1 != nil {
		correct = "exact_match"
		mean("f1", *d.F1)
	}
	for name, right := range map[string]*bool{correct: d.Correct, "acc_norm": d.Norm, "reward_acc": d.Reward, "contains": d.Contains} {
		if right != nil {
			mean(name, number(*right))
		}
	}
	if n := len(r.Choices); n > 0 && len(d.LogProbs) == n && r.Gold >= 0 && int(r.Gold) < n {
		mean("acc_norm", number(perCharacter(r.Choices, d.LogProbs) == int(r.Gold)))
	}
	if d.Chosen != nil && d.Rejected != nil {
		mean("margin", *d.Chosen-*d.Rejected)
	}
	if d.NLL != nil && d.Tokens > 0 && !math.IsNaN(*d.NLL) && !math.IsInf(*d.NLL, 0) {
		out["nll"] = share{*d.NLL, d.Tokens}
	}
	return out
}

// perCharacter returns the choice with the highest log-probability per character.
func perCharacter(choices []string, logProbs []float64) int {
	best := 0
	norm := func(i int) float64 { return logProbs[i] / float64(max(1, utf8.RuneCountInString(choices[i]))) }
	for i := range choices {
		if norm(i) > norm(best) {
			best = i
		}
	}
	return best
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// A pairing holds the values of one metric on the items that two runs share, in
// the order of the newer.
type pairing struct {
	old, new         []share
	onlyOld, onlyNew int
	binary, equal    bool
}

// pair pairs a metric's items. It is false when a run has no values of it.
func pair(metric string, old, new answers) (pairing, bool) {
	a, b := old.metrics[metric], new.metrics[metric]
	if len(a) == 0 || len(b) == 0 {
		return pairing{}, false
	}
	suite, _, _ := strings.Cut(metric, ".")
	p := pairing{binary: true, equal: true}
	for _, id := range new.order[suite] {
		n, ok := b[id]
		if !ok {
			continue
		}
		o, ok := a[id]
		if !ok {
			p.onlyNew++
			continue
		}
		p.old, p.new = append(p.old, o), append(p.new, n)
		p.equal = p.equal && o == n
		for _, s := range []share{o, n} {
			p.binary = p.binary && s.x == 1 && (s.y == 0 || s.y == 1)
		}
	}
	p.onlyOld = len(a) - len(p.old)
	return p, true
}

// judge fills in r from the pairs.
func (p pairing) judge(r *Result) {
	old, eachOld := ratio(p.old)
	new, eachNew := ratio(p.new)
	r.Old, r.New, r.Delta = old, new, new-old
	if p.equal {
		r.Outcome, r.Delta, r.P, r.Holm = Unchanged, 0, 1, 1
		return
	}
	n := float64(r.N)
	if r.N < 2 {
		r.Low, r.High, r.Outcome, r.Note = r.Delta, r.Delta, Inconclusive, "one item says nothing"
		return
	}
	r.df = n - 1
	if p.binary {
		p.mcnemar(r)
		return
	}
	r.Test = "paired t"
	ss := 0.0
	for i := range eachNew {
		d := eachNew[i] - eachOld[i] - r.Delta
		ss += d * d
	}
	r.se = math.Sqrt(ss / (n - 1) / n)
	if r.interval(); alike(r.Delta, r.se) { // a t test would be certain of two items
		r.Test, r.P = "sign", signs(r.N)
	}
}

// mcnemar tests right against wrong. The interval is that of Agresti and Min
// (2005): Wald's with half a pair added to each cell.
func (p pairing) mcnemar(r *Result) {
	var lost, won int
	for i := range p.old {
		switch p.new[i].y - p.old[i].y {
		case -1:
			lost++
		case 1:
			won++
		}
	}
	r.Test, r.P = "mcnemar", mcnemar(lost, won)
	n, b, c := float64(r.N)+2, float64(lost)+0.5, float64(won)+0.5
	mid := (c - b) / n
	r.se = math.Sqrt(b+c-(c-b)*(c-b)/n) / n
	h := normalQuantile(0.975) * r.se
	r.Low, r.High = max(-1, mid-h), min(1, mid+h)
}

// ratio returns Σy/Σx and what each item says about it: their mean is the
// ratio, their spread gives its standard error (Cochran 1977, 6.4).
func ratio(list []share) (value float64, each []float64) {
	var y, x float64
	for _, s := range list {
		y, x = y+s.y, x+s.x
	}
	value = y / x
	for _, s := range list {
		each = append(each, value+(s.y-value*s.x)*float64(len(list))/x)
	}
	return value, each
}
