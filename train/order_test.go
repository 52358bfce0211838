package train_test

import (
	"context"
	"slices"
	"testing"

	"pipe/model"
	"pipe/train"
)

// watched notes the examples of each window that is trained on.
type watched struct {
	train.Task
	steps [][]int
}

func (w *watched) Step(p *model.Pass, micro, window []int) ([]train.Mean, error) {
	if micro[0] == window[0] {
		w.steps = append(w.steps, slices.Clone(window))
	}
	return w.Task.Step(p, micro, window)
}

// TestSeen: what is said of the steps of an example is what Run does.
func TestSeen(t *testing.T) {
	d := student(t, "lora")
	var examples []model.Batch
	for range 5 {
		examples = append(examples, rows()...)
	}
	examples = examples[:len(examples)-1] // the last window is smaller
	o := train.NewOptions()
	o.Epochs, o.BatchSize, o.GradAccum, o.Seed = 3, 2, 2, 11
	w := &watched{Task: &train.Likelihood{Model: d, Rows: examples}}
	if _, err := train.Run(context.Background(), d, w, o); err != nil {
		t.Fatal(err)
	}
	want := make([][]int, len(examples))
	for i, window := range w.steps {
		for _, example := range window {
			want[example] = append(want[example], i+1)
		}
	}
	got := o.Seen(len(examples))
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("example %d is learned at %v, not %v", i, want[i], got[i])
		}
	}
	if o.MaxSteps = 1; len(slices.Concat(o.Seen(len(examples))...)) != 4 {
		t.Errorf("one step: %v", o.Seen(len(examples)))
	}
	if len(o.Seen(0)) != 0 {
		t.Error("no examples are seen")
	}
}
