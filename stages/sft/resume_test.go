package sft

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// errDied stands for the end of a process.
var errDied = errors.New("died")

// TestResume: a stage whose process died at any step goes on from its last
// checkpoint to the same model, metrics and series, and reports every point of
// the series once: for each adapter, optimizer and precision.
func TestResume(t *testing.T) {
	base := modeltest.Directory(t, true)
	for _, c := range []struct{ adapter, optimizer, precision string }{
		{"lora", "adamw", "f32"}, {"dora", "adamw_8bit", "f32"}, {"dora", "adamw", "bf16"}, {"none", "adamw_8bit", "bf16"},
	} {
		s := block(func(s *spec) {
			s.Adapter.Type, s.Optimizer, s.Precision = c.adapter, c.optimizer, c.precision
			s.CheckpointEvery, s.SaveTotalLimit, s.Adapter.Dropout, s.Epochs = 3, 1, 0.1, 1
		})
		// once runs the stage in work and dies when it reports a step, before a
		// checkpoint of that step is written.
		once := func(work string, dieAt int64) (map[string]string, []artifact.Point, error) {
			var points []artifact.Point
			var out map[string]string
			err := func() (err error) {
				defer func() {
					if p := recover(); p != nil && p != errDied {
						panic(p)
					} else if p != nil {
						err = errDied
					}
				}()
				out, err = runIn(t, context.Background(), work, s, base, "", packedRows(15), func(env *stage.Env) {
					env.Metric = func(series string, step int64, v float64) {
						points = append(points, artifact.Point{Series: series, Step: step, Value: v})
					}
					env.Progress = func(done, _ int64, unit string) {
						if done == dieAt && unit == "steps" {
							panic(errDied)
						}
					}
				})
				return err
			}()
			return out, points, err
		}
		want, wantPoints, err := once(t.TempDir(), -1)
		if err != nil {
			t.Fatal(err)
		}
		steps := wantPoints[len(wantPoints)-1].Step
		if steps < 8 {
			t.Fatalf("only %d steps", steps)
		}
		work := t.TempDir()
		for _, dieAt := range []int64{2, 4, 5, 8} { // each goes on where the one before was
			if _, _, err := once(work, dieAt); err != errDied {
				t.Fatalf("step %d: %v", dieAt, err)
			}
			if kept, _ := filepath.Glob(filepath.Join(work, "*")); len(kept) > 1 {
				t.Errorf("%v: %q are kept, want at most 1", c, kept)
			}
		}
		got, points, err := once(work, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range Kind.Outputs {
			if filepath.Base(got[o.Name]) != filepath.Base(want[o.Name]) { // directories are named by content
				t.Errorf("%v: %s differs from that of a run that did not die", c, o.Name)
			}
		}
		if !slices.Equal(points, wantPoints) {
			t.Errorf("%v: the points of the series differ:\n%v\n%v", c, points, wantPoints)
		}
		seen := map[string]bool{}
		for _, p := range points {
			id := fmt.Sprint(p.Series, p.Step)
			if seen[id] {
				t.Errorf("%v: %s has two points at step %d", c, p.Series, p.Step)
			}
			seen[id] = true
		}
	}
}
