package train_test

import (
	"context"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor/cpu"
	"pipe/train"
)

// small is a 1.5-million-parameter Llama, as the embedded model is.
var small = model.Config{VocabSize: 2048, Hidden: 128, Intermediate: 352, Layers: 6, Heads: 4, KVHeads: 2, HeadDim: 32,
	MaxPositions: 512, NormEps: 1e-5, InitRange: 0.02, Tied: true, Rope: model.Rope{Theta: 10000}}

// BenchmarkStep reports training throughput in tokens per second.
func BenchmarkStep(b *testing.B) {
	for _, full := range []bool{true, false} {
		name := "dora"
		if full {
			name = "full"
		}
		b.Run(name, func(b *testing.B) {
			back := cpu.New(0)
			defer back.Close()
			d, err := model.Load(back, small, model.Random(small, 1), full)
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			if !full {
				c := adapter.NewConfig()
				c.DoRA = true
				if _, err := adapter.Attach(d, c, 1); err != nil {
					b.Fatal(err)
				}
			}
			var row model.Batch
			rng := model.NewStream(1, "tokens")
			for i := range 4 {
				ids := make([]int32, 256)
				for j := range ids {
					ids[j] = int32(rng.At(uint64(i*256+j)) % 2048)
				}
				row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
			}
			o := train.NewOptions()
			o.MaxSteps = b.N
			b.ResetTimer()
			if _, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: []model.Batch{row}}, o); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(row.IDs)*b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
