package dpo

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/train"
)

// write creates the outputs.
func (s *spec) write(env *stage.Env, student *train.Student, paths stage.ModelPath, r *train.Result, held []train.Preference, after []train.Pair) error {
	w, err := env.Create("model")
	if err != nil {
		return err
	}
	settings := s.options(env).Settings()
	settings["steps"], settings["loss"], settings["beta"], settings["max_len"] = fmt.Sprint(r.Steps), s.Loss, fmt.Sprint(s.Beta), fmt.Sprint(s.MaxLen)
	if tensor.Precision(s.Precision) != tensor.F32 {
		settings["precision"] = s.Precision
	}
	manifest := artifact.ModelManifest{Training: slices.Concat(paths.Training, []artifact.Training{{Kind: Kind.Name, Settings: settings}})}
	if student.Adapter != nil {
		manifest.Base = paths.Root
	}
	if err := student.Save(w.Dir(), paths.Root.String()); err != nil {
		return fmt.Errorf("write the model: %w", err)
	}
	if err := w.WriteJSON(artifact.ModelFile, manifest); err != nil {
		return err
	}
	if w, err = env.Create("series"); err != nil {
		return err
	}
	points := make([]artifact.Point, len(r.Series))
	for i, p := range r.Series {
		points[i] = artifact.Point{Series: p.Series, Step: p.Step, Value: p.Value}
	}
	if err := artifact.Append(w, points...); err != nil {
		return err
	}
	if w, err = env.Create("metrics"); err != nil {
		return err
	}
	return w.WriteJSON(artifact.MetricsName, s.measured(env, held, unflatten(r.Before["held"]), after))
}

// measured compares the held-out pairs after training with before.
func (s *spec) measured(env *stage.Env, held []train.Preference, before, after []train.Pair) artifact.MetricsFile {
	m := artifact.MetricsFile{Metrics: map[string]artifact.Metric{}, Baseline: map[string]artifact.Metric{}, Change: map[string]artifact.Metric{}}
	if len(held) == 0 {
		return m
	}
	m.Items = &artifact.Items{Names: names(held), Values: map[string][]float64{}}
	put := func(name string, at func(sums []train.Pair) train.Estimate) {
		metric := func(e train.Estimate) artifact.Metric {
			return artifact.Metric{N: e.N, Value: e.Value, Stderr: e.Stderr, Better: 1}
		}
		a, b := at(after), at(before)
		m.Metrics[name], m.Baseline[name], m.Items.Values[name] = metric(a), metric(b), a.Each
		if d, ok := a.Minus(b); ok {
			m.Change[name] = metric(d)
		}
	}
	put("eval.accuracy", func(sums []train.Pair) train.Estimate { return train.PreferenceAccuracy(held, sums) })
	put("eval.reward_accuracy", func(sums []train.Pair) train.Estimate { return train.RewardAccuracy(sums, before) })
	put("eval.margin", func(sums []train.Pair) train.Estimate { return train.RewardMargin(s.Beta, sums, before) })
	env.Note("held-out preference accuracy %.3f before, %.3f after (%s)", m.Baseline["eval.accuracy"].Value, m.Metrics["eval.accuracy"].Value, stage.Count(len(held), "pair"))
	return m
}

// names are those of pairs, by their tokens.
func names(pairs []train.Preference) (out []string) {
	for _, p := range pairs {
		h := sha256.New()
		for _, ids := range [][]int32{p.Prompt, p.Chosen, p.Rejected} {
			binary.Write(h, binary.LittleEndian, int64(len(ids)))
			binary.Write(h, binary.LittleEndian, ids)
		}
		out = append(out, hex.EncodeToString(h.Sum(nil)[:16]))
	}
	return out
}
