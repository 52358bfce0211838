package eval

import (
	"fmt"

	"pipe/runtime/artifact"
	"pipe/tensor"
	"pipe/train"
)

// An asked is all that the results of a model depend on, beside the kind, the
// seed and the device: many tuned models are compared with one base, which answers
// only once.
type asked struct {
	Model     artifact.Digest // its weights, chat template and quantisation
	Off       bool            // an adapter over it was loaded and left out
	Batch     int
	Precision string
	Suites    []suite
	Needle    *needle
}

// scored is what is kept of a result; its items are not.
type scored struct {
	Metrics []scoredMetric
	Grid    *artifact.Grid
	Sums    [][2]float64
	Tally   tally
}

type scoredMetric struct {
	Name string
	train.Estimate
	Better int
}

// base returns the results of the model that the subject of r is compared with:
// the baseline, else the subject's own base; nil when there is none. The subject is
// closed.
func (s *spec) base(r *runner, jobs []job, root artifact.Digest) ([]*result, error) {
	switch {
	case s.Baseline != nil:
		r.subject.close()
		base, err := s.measured(r, jobs, asked{Model: s.Baseline.Ref.Digest}, func() ([]*result, error) {
			paths, err := r.env.Store.Model(s.Baseline.Ref)
			if err != nil {
				return nil, err
			}
			if r.subject, err = openSubject(r.env.Backend, paths, tensor.Precision(s.Precision)); err != nil {
				return nil, err
			}
			defer r.subject.close()
			return r.all(jobs, false)
		})
		if err != nil {
			return nil, fmt.Errorf("baseline: %w", err)
		}
		return base, nil
	case r.subject.adapter:
		defer r.subject.close()
		base, err := s.measured(r, jobs, asked{Model: root, Off: true}, func() ([]*result, error) {
			r.subject.base = true
			return r.all(jobs, false)
		})
		if err != nil {
			return nil, fmt.Errorf("base model: %w", err)
		}
		return base, nil
	}
	r.subject.close()
	return nil, nil
}

// measured returns the results of a model that is compared with: what an earlier
// evaluation asked it alike, else what measure finds.
func (s *spec) measured(r *runner, jobs []job, of asked, measure func() ([]*result, error)) (results []*result, err error) {
	of.Batch, of.Precision, of.Suites, of.Needle = s.Batch, s.Precision, s.Suites, s.Needle
	var kept []scored
	recalled, err := r.env.Measure(of, &kept, func() error {
		if results, err = measure(); err != nil {
			return err
		}
		for i, res := range results {
			k := scored{Grid: res.grid, Sums: res.sums, Tally: r.tallies[i]}
			for _, m := range res.metrics {
				k.Metrics = append(k.Metrics, scoredMetric{m.name, m.Estimate, m.better})
			}
			kept = append(kept, k)
		}
		return nil
	})
	if err != nil || !recalled {
		return results, err
	}
	if len(kept) != len(jobs) {
		return nil, fmt.Errorf("what was kept of the model that is compared with has %d results, not %d; remove memos/ in the store", len(kept), len(jobs))
	}
	results = make([]*result, len(jobs))
	for i, k := range kept {
		results[i] = &result{grid: k.Grid, sums: k.Sums}
		for _, m := range k.Metrics {
			results[i].put(m.Name, m.Estimate, m.Better)
		}
		r.tell(jobs[i], k.Tally)
	}
	whose := "the baseline"
	if of.Off {
		whose = "the base"
	}
	r.env.Note("%s was asked the same before; its results are those", whose)
	return results, nil
}
