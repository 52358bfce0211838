package engine

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// judge judges the gates of a stage that is up to date. A gate that cannot be
// judged has not passed.
func (e *engine) judge(n *lang.Node) {
	if n.Kind == nil || len(n.Gates) == 0 {
		return
	}
	metrics, err := e.metrics(n)
	results := make([]GateResult, len(n.Gates))
	for i, g := range n.Gates {
		r := &results[i]
		r.Stage, r.Name = n.Addr, g.Name
		var against pinnedMetrics
		if err == nil && refersTo(g, "baseline") {
			against, err = e.pinnedMetrics(n)
		}
		if err != nil {
			r.Message = fmt.Sprintf("the gate cannot be judged: %v", err)
			r.Diags = append(r.Diags, n.Diagnostic("Gate cannot be judged", err))
		} else if refersTo(g, "baseline") && against.metrics == nil && len(metrics.Baseline) == 0 {
			r.Pass, r.Note = true, "not judged: no baseline is pinned and no base model was measured; pipe baseline set RUN pins a run"
		} else {
			m := lang.GateMetrics{Self: values(metrics.Metrics), Base: values(metrics.Baseline), Baseline: values(metrics.Baseline)}
			if against.metrics != nil {
				m.Baseline = values(against.metrics)
			}
			r.judge(g, m, against)
		}
		e.Log.Info().Str("stage", n.Addr).Str("gate", g.Name).Bool("pass", r.Pass).Str("message", r.Message).Str("values", r.Values).Msg("gate judged")
		e.emit(Event{Type: GateEvent, Addr: n.Addr, Gate: r})
	}
	e.mu.Lock()
	e.gates[n.Addr] = results
	e.mu.Unlock()
}

func (r *GateResult) judge(g stage.Gate, m lang.GateMetrics, against pinnedMetrics) {
	v, diags := lang.EvalGate(g, m)
	r.Pass, r.Message, r.Values, r.Note, r.Diags = v.Pass, v.Message, v.Values, against.note, diags
	if diags.HasErrors() {
		r.Pass, r.Message = false, diags.Error()
	}
	if against.metrics == nil {
		return
	}
	if r.Baseline = against.run; diags.HasErrors() {
		r.Note = fmt.Sprintf("baseline is run %s; pipe baseline set RUN pins a newer one", against.run)
	}
}

// refersTo reports whether a gate names self, baseline or base.
func refersTo(g stage.Gate, root string) bool {
	for _, x := range []hcl.Expression{g.Condition, g.ErrorMessage} {
		for _, t := range x.Variables() {
			if t.RootName() == root {
				return true
			}
		}
	}
	return false
}

// metrics reads the stored metrics of a stage.
func (e *engine) metrics(n *lang.Node) (artifact.MetricsFile, error) {
	for _, o := range n.Makes {
		if o.Type == artifact.Metrics {
			e.mu.Lock()
			d := e.outputs[n.Addr][o.Name].Digest
			e.mu.Unlock()
			return readMetrics(e.Store, d)
		}
	}
	return artifact.MetricsFile{}, fmt.Errorf("%s stages have no metrics", n.Kind.Name)
}

func readMetrics(s *artifact.Store, d artifact.Digest) (f artifact.MetricsFile, err error) {
	a, err := s.Open(d)
	if err == nil {
		err = artifact.ReadJSON(a, artifact.MetricsName, &f)
	}
	return f, err
}

// pinnedMetrics are what a stage measured in the pinned run. Without metrics
// there is none, and the base model stands for it; note says so where a run is
// pinned that lacks the stage.
type pinnedMetrics struct {
	run, note string
	metrics   map[string]artifact.Metric
}

func (e *engine) pinnedMetrics(n *lang.Node) (pinnedMetrics, error) {
	pin, err := e.pinned()
	if pin == nil || err != nil {
		return pinnedMetrics{}, err
	}
	for _, o := range n.Makes {
		if out, ok := pin.outputs[n.Addr][o.Name]; ok && o.Type == artifact.Metrics {
			f, err := readMetrics(e.Store, out.Digest)
			if err != nil {
				return pinnedMetrics{}, fmt.Errorf("read what %s measured in the baseline run %s: %w; pin another run: pipe baseline set RUN", n.Addr, pin.run, err)
			}
			return pinnedMetrics{run: pin.run, metrics: f.Metrics}, nil
		}
	}
	return pinnedMetrics{note: fmt.Sprintf("the baseline run %s has no %s; baseline is the base model here", pin.run, n.Addr)}, nil
}

func values(ms map[string]artifact.Metric) map[string]float64 {
	out := make(map[string]float64, len(ms))
	for name, m := range ms {
		out[name] = m.Value
	}
	return out
}
