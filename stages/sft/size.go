package sft

// Size implements stage.Sizer: packed rows that are trained on.
func (s *spec) Size(rows func(path string) int64) float64 {
	if s.MaxSteps > 0 {
		return float64(s.MaxSteps) * float64(s.BatchSize*s.GradAccum)
	}
	return float64(s.Epochs) * float64(rows("data"))
}
