package report

import (
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

// An origin says what the run was made from, without what is of one machine.
type origin struct {
	Facts   []field
	Files   []field // of the recipe
	Models  []field
	Stages  []originRow
	More    int
	Problem string
}

type originRow struct {
	Addr, Kind, Version, Seed, Backend, Key string
	Outputs                                 []field
}

const mostOrigins, mostRecipe = 400, 256 << 10

func (r *reader) origin() (o origin) {
	fact := func(name, text string) {
		if text != "" {
			o.Facts = append(o.Facts, field{name, clean(text)})
		}
	}
	fact("pipeline", r.run.Pipeline)
	fact("run", r.run.Run)
	fact("began", r.run.Started.UTC().Format("2006-01-02 15:04:05 UTC"))
	if len(r.run.Recipe) > 0 {
		fact("seed", fmt.Sprint(r.run.Seed))
	}
	fact("backend", r.run.Backend)
	left := mostRecipe
	for _, f := range r.run.Recipe {
		b, err := engine.ReadRecipe(r.store, f)
		text := clip(string(b), left)
		if err != nil {
			text = "(" + clip(err.Error(), 300) + ")"
		}
		left = max(0, left-len(text))
		o.Files = append(o.Files, field{clean(f.Name) + ", " + f.Digest.String()[:19], text})
	}
	if len(r.run.Recipe) == 0 {
		o.Problem = "An older version of pipe ran this, which did not keep the text of the pipeline."
	}
	o.Models = r.models()
	shown := r.chosen(mostOrigins)
	o.More = len(r.run.Stages) - len(shown)
	for _, i := range shown {
		st := &r.run.Stages[i]
		row := originRow{Addr: clean(st.Addr), Kind: clean(st.Kind)}
		if st.Key != (artifact.Key{}) {
			row.Key = st.Key.String()
		}
		if r.record(st) != nil {
			p := r.preimage(st)
			row.Version, row.Seed, row.Backend = fmt.Sprint(p.Version), fmt.Sprint(p.Seed), clean(p.Backend)
		}
		for _, name := range sortedKeys(st.Outputs) {
			row.Outputs = append(row.Outputs, field{clean(name), st.Outputs[name].Digest.String()})
		}
		o.Stages = append(o.Stages, row)
	}
	return o
}

// models are the model blocks that the stages of the run refer to, as the
// pipeline describes them now, each with the digest that the run had of it.
func (r *reader) models() (out []field) {
	if r.prog == nil {
		return nil
	}
	used := map[string]string{} // digest by address
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		n := r.prog.Node(st.Addr)
		if n == nil {
			continue
		}
		var ins map[string]artifact.Digest
		for _, in := range n.Inputs {
			m := r.prog.Node(in.Ref.Addr)
			if m == nil || m.Model == nil || used[m.Addr] != "" {
				continue
			}
			if ins == nil {
				ins = r.preimage(st).Inputs
			}
			if d := ins[in.Path]; !d.IsZero() {
				used[m.Addr] = d.String()
			}
		}
	}
	for _, addr := range sortedKeys(used) {
		source := r.prog.Node(addr).Model.Source
		if strings.HasPrefix(source, "/") { // of this machine
			source = "a local directory or file"
		}
		out = append(out, field{clean(addr) + " = " + clean(source), used[addr]})
	}
	return out
}

// A historyView is the nights of a pipeline.
type historyView struct {
	Charts []historyChart
	Nights []nightRow
	Note   string
	More   int
}

type nightRow struct{ Time, Run, State, Symbol, Verdict string }

type historyChart struct {
	Name, Summary string
	Line          string
	Dots          []nightDot
	Low, High     string
}

type nightDot struct{ X, Y, State, Title string }

const mostNights, mostHistories = 90, 40

func (r *reader) history() (h historyView) {
	if r.prog == nil {
		return h
	}
	nights, bad, err := compare.OpenHistory(r.store, engine.PipelineName(r.store, r.prog)).Nights()
	if err != nil {
		h.Note = clip(err.Error(), 300)
		return h
	}
	if bad > 0 {
		h.Note = counted(bad, "line") + " of the history could not be read."
	}
	h.More = max(0, len(nights)-mostNights)
	nights = nights[h.More:]
	for _, n := range slices.Backward(nights) {
		row := nightRow{Time: n.Time.UTC().Format("2006-01-02 15:04"), Run: clean(n.Run), State: "good", Symbol: "✓", Verdict: clip(n.Verdict, 300)}
		if n.Exit != 0 {
			row.State, row.Symbol = "bad", "✗"
		}
		if len(h.Nights) < 30 {
			h.Nights = append(h.Nights, row)
		}
	}
	h.Charts = historyCharts(nights)
	return h
}

// historyCharts draws each metric over the nights, oldest to the left.
func historyCharts(nights []compare.Night) (out []historyChart) {
	type key struct{ stage, metric string }
	seen := map[key]bool{}
	var keys []key
	for _, n := range nights {
		for _, stage := range sortedKeys(n.Metrics) {
			for _, metric := range sortedKeys(n.Metrics[stage]) {
				if k := (key{stage, metric}); !seen[k] {
					seen[k] = true
					keys = append(keys, k)
				}
			}
		}
	}
	for _, k := range keys {
		if len(out) == mostHistories {
			break
		}
		c := historyChart{Name: clean(k.stage + " " + k.metric)}
		low, high := 0.0, 0.0
		first := true
		for _, n := range nights {
			if m, ok := n.Metrics[k.stage][k.metric]; ok && finite(m.Value) {
				if first || m.Value < low {
					low = m.Value
				}
				if first || m.Value > high {
					high = m.Value
				}
				first = false
			}
		}
		if first {
			continue
		}
		const width, height = 240.0, 56.0
		var ps [][2]float64
		for i, n := range nights {
			m, ok := n.Metrics[k.stage][k.metric]
			if !ok || !finite(m.Value) {
				continue
			}
			x, y := width/2, height/2
			if len(nights) > 1 {
				x = 6 + (width-12)*float64(i)/float64(len(nights)-1)
			}
			if high > low {
				y = height - 6 - (height-12)*(m.Value-low)/(high-low)
			}
			ps = append(ps, [2]float64{x, y})
			o := n.Outcomes[k.stage][k.metric]
			d := nightDot{X: coordinate(x), Y: coordinate(y), State: "plain", Title: n.Time.UTC().Format("2006-01-02") + ": " + number(m.Value)}
			if o == compare.Worse || o == compare.Better {
				d.State = classes[string(o)]
				d.Title += ", " + string(o)
			}
			c.Dots = append(c.Dots, d)
		}
		c.Line, c.Low, c.High = line(ps), number(low), number(high)
		c.Summary = fmt.Sprintf("%s, %s: from %s to %s", c.Name, counted(len(c.Dots), "night"), c.Low, c.High)
		out = append(out, c)
	}
	return out
}
