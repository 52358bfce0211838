package index

import (
	"context"
	"fmt"
	"math/rand"

	"github.com/coder/hnsw"

	"pipe/stages/dedup/parallel"
	"pipe/tensor"
)

// Coder is the Search over a graph of github.com/coder/hnsw. Version 0.6.1 of
// it finds a small part of the neighbours, and not always the same part; it
// panics on some inputs, which is returned as an error.
func Coder(ctx context.Context, _ tensor.Backend, v Vectors, threshold float64, yield Yield) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("coder/hnsw failed: %v; use index = \"auto\"", p)
		}
	}()
	g := &hnsw.Graph[int]{M: 16, Ml: 0.25, EfSearch: 200, Distance: hnsw.CosineDistance, Rng: rand.New(rand.NewSource(1))}
	for i := range v.Len() {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if !v.zero(i) { // its distance would be NaN
			g.Add(hnsw.MakeNode(i, v.Row(i)))
		}
	}
	if g.Len() == 0 {
		return nil
	}
	const block, neighbours = 4096, 32
	found := make([][]int, block)
	for from := 0; from < v.Len(); from += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(block, v.Len()-from)
		parallel.For(n, 16, func(i int) {
			found[i] = found[i][:0]
			if v.zero(from + i) {
				return
			}
			for _, node := range g.Search(v.Row(from+i), neighbours) {
				if node.Key != from+i && Cosine(v.Row(from+i), v.Row(node.Key)) >= threshold {
					found[i] = append(found[i], node.Key)
				}
			}
		})
		for i := range n {
			for _, j := range found[i] {
				yield(from+i, j)
			}
		}
	}
	return nil
}
