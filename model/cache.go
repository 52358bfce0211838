package model

import (
	"slices"

	"pipe/tensor"
)

// A cache keeps the keys and values of sequences, in the decoder's precision. Each has a range of rows of
// its own, the same in every layer.
//
// Sequences that begin with the same tokens have a copy each of the rows of
// these tokens, because the attention of a segment reads one range of rows. A
// copy costs a few microseconds a token, where computing the rows costs a pass
// through the model, and the kernels read consecutive memory.
type cache struct {
	b    tensor.Backend
	rows int32
	k, v []*tensor.Tensor // per layer [rows, kvHeads·headDim]
	free []span           // unused ranges, ascending, never adjacent
	at   *tensor.Tensor   // I32 [tokens] of the present pass: row where each token's key goes
}

// A span is the rows from..to, without to.
type span struct{ from, to int32 }

func (d *Decoder) newCache(rows int) (*cache, error) {
	c := &cache{b: d.backend, rows: int32(rows), free: []span{{0, int32(rows)}}}
	tensor.For(d.backend, tensor.ForCache)
	for range d.Layers {
		for _, list := range []*[]*tensor.Tensor{&c.k, &c.v} {
			t, err := d.backend.Alloc(d.precision, rows, d.Config.KVHeads*d.Config.HeadDim)
			if err != nil {
				c.close()
				return nil, err
			}
			*list = append(*list, t)
		}
	}
	return c, nil
}

func (c *cache) close() {
	c.each(c.b.Free)
}

// each calls f with the keys and the values of every layer.
func (c *cache) each(f func(*tensor.Tensor)) {
	for _, list := range [][]*tensor.Tensor{c.k, c.v} {
		for _, t := range list {
			f(t)
		}
	}
}

// take reserves n rows, in the first range that has them.
func (c *cache) take(n int32) (span, bool) {
	for i, f := range c.free {
		if f.to-f.from < n {
			continue
		}
		s := span{f.from, f.from + n}
		c.free[i].from = s.to
		if s.to == f.to {
			c.free = slices.Delete(c.free, i, i+1)
		}
		return s, true
	}
	return span{}, false
}

// give returns a range, joining it with its neighbours.
func (c *cache) give(s span) {
	if s.from == s.to {
		return
	}
	i := 0
	for i < len(c.free) && c.free[i].from < s.from {
		i++
	}
	c.free = slices.Insert(c.free, i, s)
	for j := max(i, 1); j < len(c.free) && j <= i+1; {
		if c.free[j-1].to == c.free[j].from {
			c.free[j-1].to = c.free[j].to
			c.free = slices.Delete(c.free, j, j+1)
			continue
		}
		j++
	}
}

// view returns the rows s of t.
func (c *cache) view(t *tensor.Tensor, s span) *tensor.Tensor {
	w := t.Cols()
	return c.b.View(t, int(s.from)*w, int(s.to-s.from), w)
}

// copy copies n rows between ranges that do not overlap.
func (c *cache) copy(to, from, n int32) {
	c.each(func(t *tensor.Tensor) {
		c.b.Copy(c.view(t, span{to, to + n}), c.view(t, span{from, from + n}))
	})
}

// append adds the keys and values of a pass and returns all of a layer.
func (c *cache) append(p *Pass, layer int, k, v *tensor.Tensor) (*tensor.Tensor, *tensor.Tensor) {
	p.ScatterRows(c.k[layer], k, c.at)
	p.ScatterRows(c.v[layer], v, c.at)
	return c.k[layer], c.v[layer]
}
