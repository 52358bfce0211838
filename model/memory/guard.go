package memory

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor"
)

// A Guard refuses work that would not fit. Work is first done on its Plan;
// Check then compares. A nil Guard, of a backend that cannot plan, lets
// everything pass.
type Guard struct {
	Plan    tensor.Plan
	granted int64 // bytes of the plan that an earlier Check let pass

	available func() (Limit, bool)
	machine   func() (Limit, bool) // where tensors lie that the backend keeps beside its own memory
}

// NewGuard returns the guard of b, nil if b cannot plan.
func NewGuard(b tensor.Backend) *Guard {
	p, ok := b.(tensor.Planner)
	if !ok {
		return nil
	}
	return &Guard{Plan: p.Plan(), available: func() (Limit, bool) { return AvailableTo(b) }, machine: Available}
}

// slack is how much more than planned a process may take: the plan is held to
// 5 % of what is measured.
const slack = 1.05

// Check returns an error unless what has been planned so far fits, less what
// passed before and may be in use by now. advice is what to change, the best
// first.
func (g *Guard) Check(advice ...string) error {
	if g == nil {
		return nil
	}
	need := g.Plan.Peak()
	have, known := g.available()
	short := known && slack*float64(need.Bytes-g.granted) > float64(have.Bytes)
	if !short && need.Host > 0 {
		have, known = g.machine()
		short = known && slack*float64(need.Host) > float64(have.Bytes)
	}
	if short {
		msg := fmt.Sprintf("needs %s of memory (%s)", Size(need.Bytes), Parts(need))
		if need.Host > 0 {
			msg += fmt.Sprintf(" and %s of the machine's for the optimizer's state", Size(need.Host))
		}
		if g.granted > 0 {
			msg += fmt.Sprintf(", %s more than before", Size(need.Bytes-g.granted))
		}
		msg += fmt.Sprintf("; %s %s", have.From, Size(have.Bytes))
		if len(advice) > 0 {
			msg += ": " + strings.Join(advice, "; or ")
		}
		return &TooLarge{need, have, msg}
	}
	g.granted = max(g.granted, need.Bytes)
	return nil
}

// Room returns how many bytes more could be planned and pass Check; less than 0
// when it does not pass.
func (g *Guard) Room() int64 {
	have, known := g.available()
	if !known {
		return math.MaxInt64
	}
	return int64(float64(have.Bytes)/slack) - (g.Plan.Peak().Bytes - g.granted)
}

// TooLarge is the error of work that does not fit.
type TooLarge struct {
	Need tensor.Usage
	Have Limit
	msg  string
}

func (e *TooLarge) Error() string { return e.msg }

// Size words a number of bytes.
func Size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f kB", float64(n)/1e3)
}

// Parts lists what memory is for, the most first; less than a hundredth is
// left out.
func Parts(u tensor.Usage) string {
	ps := slices.Clone(u.Parts)
	slices.SortStableFunc(ps, func(a, b tensor.Part) int { return cmp.Compare(b.Bytes, a.Bytes) })
	var s []string
	for _, p := range ps {
		if p.Bytes*100 >= u.Bytes {
			s = append(s, p.Name+" "+Size(p.Bytes))
		}
	}
	return strings.Join(s, ", ")
}

// Decoder loads a frozen model on the plan, with the PEFT adapter of a
// directory unless that is "".
func (g *Guard) Decoder(c model.Config, src model.Source, peft string, precision tensor.DType) (*model.Decoder, error) {
	d, err := model.Load(g.Plan, c, model.Described(src), false)
	if err != nil {
		return nil, err
	}
	d.SetPrecision(precision)
	if peft != "" {
		_, err = adapter.Load(d, peft)
	}
	return d, err
}

// Score plans [model.Decoder.Score] of cs on d, a decoder of the plan, pass by
// pass: what passes hold depends on what the continuations have in common.
func Score(ctx context.Context, d *model.Decoder, cs []model.Continuation, o model.ScoreOptions) error {
	o.Progress = nil
	_, err := d.Score(ctx, cs, o)
	return err
}

// Generate plans [model.Decoder.Generate] of reqs on d, a decoder of the plan:
// of the longest requests, each up to its first token. What prompts have in common
// counts as often as it comes, where several are read together.
func Generate(ctx context.Context, d *model.Decoder, reqs []model.Request, o model.GenerateOptions) error {
	limit := func(r model.Request) int { return len(r.Prompt) + r.MaxTokens }
	most, tokens := slices.SortedStableFunc(slices.Values(reqs), func(a, b model.Request) int {
		return cmp.Compare(limit(b), limit(a))
	}), 0
	for i := range most {
		if tokens += limit(most[i]); tokens > 2*max(o.CacheTokens, 16384) && i >= max(o.Batch, tensor.RowsTogether(d.Backend())) {
			most = most[:i+1]
			break
		}
	}
	if rows := tensor.PromptRows(d.Backend()); rows > 0 {
		most = apart(append(longest(reqs, rows), most...), d.Config.VocabSize)
	}
	for i := range most {
		most[i].Stop = func([]int32) bool { return true }
	}
	return d.Generate(ctx, most, o, func(int, model.Result) error { return nil })
}

// longest returns the requests with the longest prompts that fill a pass of so many rows.
func longest(reqs []model.Request, rows int) []model.Request {
	list := slices.SortedStableFunc(slices.Values(reqs), func(a, b model.Request) int {
		return cmp.Compare(len(b.Prompt), len(a.Prompt))
	})
	for i, r := range list {
		if rows -= len(r.Prompt) - 1; rows <= 0 {
			return list[:i+1]
		}
	}
	return list
}

// apart gives prompts that have nothing in common, in place of those of reqs.
func apart(reqs []model.Request, vocabulary int) []model.Request {
	for i := range reqs {
		if p := slices.Clone(reqs[i].Prompt); len(p) > 0 {
			p[0] = int32(i % vocabulary)
			reqs[i].Prompt = p
		}
	}
	return reqs
}
