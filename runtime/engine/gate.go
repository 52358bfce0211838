package engine

import (
	"fmt"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// judge judges the gates of a stage that is up to date. A gate that cannot be
// judged has not passed.
func (e *engine) judge(n *lang.Node) {
	if n.Kind == nil || len(n.Gates) == 0 {
		return
	}
	self, baseline, err := e.metrics(n)
	results := make([]GateResult, len(n.Gates))
	for i, g := range n.Gates {
		r := &results[i]
		r.Stage, r.Name = n.Addr, g.Name
		if err != nil {
			r.Message = fmt.Sprintf("the gate cannot be judged: %v", err)
			r.Diags = append(r.Diags, n.Diagnostic("Gate cannot be judged", err))
		} else {
			r.Pass, r.Message, r.Diags = lang.EvalGate(g, self, baseline)
			if r.Diags.HasErrors() {
				r.Pass, r.Message = false, r.Diags.Error()
			}
		}
		e.Log.Info().Str("stage", n.Addr).Str("gate", g.Name).Bool("pass", r.Pass).Str("message", r.Message).Msg("gate judged")
		e.emit(Event{Type: GateEvent, Addr: n.Addr, Gate: r})
	}
	e.mu.Lock()
	e.gates[n.Addr] = results
	e.mu.Unlock()
}

// metrics reads the stored metrics of a stage, by name.
func (e *engine) metrics(n *lang.Node) (self, baseline map[string]float64, err error) {
	for _, o := range n.Makes {
		if o.Type != artifact.Metrics {
			continue
		}
		e.mu.Lock()
		d := e.outputs[n.Addr][o.Name].Digest
		e.mu.Unlock()
		a, err := e.Store.Open(d)
		if err != nil {
			return nil, nil, err
		}
		var f artifact.MetricsFile
		if err := artifact.ReadJSON(a, artifact.MetricsName, &f); err != nil {
			return nil, nil, err
		}
		return values(f.Metrics), values(f.Baseline), nil
	}
	return nil, nil, fmt.Errorf("%s stages have no metrics", n.Kind.Name)
}

func values(ms map[string]artifact.Metric) map[string]float64 {
	out := make(map[string]float64, len(ms))
	for name, m := range ms {
		out[name] = m.Value
	}
	return out
}
