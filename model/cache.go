package model

import "pipe/tensor"

// A cache keeps the keys and values of running sequences. Each has a range of
// rows of its own, the same in every layer.
type cache struct {
	k, v []*tensor.Tensor // per layer [rows, kvHeads·headDim]
	free []span           // unused ranges, ascending, never adjacent
	at   []int32          // of the present pass: row where a segment's new keys go
}

type span struct{ from, to int32 }

func (d *Decoder) newCache(rows int) (*cache, error) {
	c := &cache{free: []span{{0, int32(rows)}}}
	tensor.For(d.backend, tensor.ForCache)
	for range d.Layers {
		for _, list := range []*[]*tensor.Tensor{&c.k, &c.v} {
			t, err := d.backend.Alloc(tensor.F32, rows, d.Config.KVHeads*d.Config.HeadDim)
			if err != nil {
				c.close(d.backend)
				return nil, err
			}
			*list = append(*list, t)
		}
	}
	return c, nil
}

func (c *cache) close(b tensor.Backend) {
	for _, t := range append(c.k, c.v...) {
		b.Free(t)
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
			c.free = append(c.free[:i], c.free[i+1:]...)
		}
		return s, true
	}
	return span{}, false
}

// give returns a range, joining it with its neighbours.
func (c *cache) give(s span) {
	i := 0
	for i < len(c.free) && c.free[i].from < s.from {
		i++
	}
	c.free = append(c.free[:i], append([]span{s}, c.free[i:]...)...)
	for j := max(i, 1); j < len(c.free) && j <= i+1; {
		if c.free[j-1].to == c.free[j].from {
			c.free[j-1].to = c.free[j].to
			c.free = append(c.free[:j], c.free[j+1:]...)
			continue
		}
		j++
	}
}

// append adds the keys and values of a pass and returns all of a layer.
func (c *cache) append(p *Pass, layer int, k, v *tensor.Tensor) (*tensor.Tensor, *tensor.Tensor) {
	w := k.Cols()
	for s, at := range c.at {
		from := int(p.Segments.Q[s])
		n := int(p.Segments.Q[s+1]) - from
		p.Copy(p.View(c.k[layer], int(at)*w, n, w), p.View(k, from*w, n, w))
		p.Copy(p.View(c.v[layer], int(at)*w, n, w), p.View(v, from*w, n, w))
	}
	return c.k[layer], c.v[layer]
}
