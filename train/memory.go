package train

import (
	"fmt"

	"pipe/tensor"
)

// SaveMemory says what to change of a run that needs too much memory, in the
// words of the pipeline file: of the parts of need that a change would make a
// good deal smaller. length is how to make examples shorter; adapter is whether
// an adapter is trained.
func (o Options) SaveMemory(need tensor.Usage, length string, adapter bool) (advice []string) {
	share := map[string]float64{}
	for _, p := range need.Parts {
		share[p.Name] = float64(p.Bytes) / float64(max(need.Bytes, 1))
	}
	say := func(when bool, format string, args ...any) {
		if when {
			advice = append(advice, fmt.Sprintf(format, args...))
		}
	}
	activations := share[tensor.ForActivations] >= 0.1
	trained := share[tensor.ForAdapter]+share[tensor.ForGradients]+share[tensor.ForOptimizer] >= 0.1
	say(activations && o.BatchSize > 1, "lower batch_size (it is %d) and raise grad_accum for it: the same steps", o.BatchSize)
	say(activations && !o.Recompute, "set gradient_checkpointing = true: the same result, slower")
	say(share[tensor.ForOptimizer] >= 0.1 && !o.EightBit, "set optimizer = %q", OptimizerAdamW8bit)
	say(activations, "%s", length)
	say(trained && adapter, "lower the rank of the adapter")
	say(!adapter, "train an adapter instead of all weights")
	say(share[tensor.ForWeights] >= 0.3 && adapter, "take a base with smaller weights, such as a q4_0 GGUF")
	return advice
}
