package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/quant"
)

// selfCheck reports how b's numbers differ from the processor's by more than
// rounding: a GPU, driver or library on which a kernel computes wrongly must be
// found out before results are made with it. It takes one small model with a DoRA
// adapter through a training step in all precisions that b has, and compares the
// log-probabilities, the gradients of the adapter and what the optimizer makes of
// it; and, one by one, a product and attention as generation has them, also repeated,
// products with weights in blocks, what a mixture of experts does, and the largest
// logits.
func selfCheck(b tensor.Backend) error {
	processor := cpu.New(0)
	defer processor.Close()
	for _, p := range []struct {
		precision  tensor.DType
		off, angle float64 // most that log-probabilities and the directions of gradients may differ
	}{{tensor.F32, 1e-4, 1e-6}, {tensor.BF16, 5e-2, 1e-2}, {tensor.FP8, 1, 4e-2}} {
		if tensor.HasPrecision(b, p.precision) != nil {
			continue
		}
		want, err := checkPass(processor, p.precision)
		if err != nil {
			return err
		}
		got, err := checkPass(b, p.precision)
		if err != nil {
			return fmt.Errorf("self-check in %s: %w", p.precision, err)
		}
		if err := got.compare(want, p.off, p.angle); err != nil {
			return fmt.Errorf("self-check in %s: %w", p.precision, err)
		}
	}
	return nil
}

// checked is what a pass of the self-check gives.
type checked struct {
	logp    []float32
	vectors map[string][]float32 // of which the direction and the length count
}

// compare reports the first difference: of a log-probability by more than off, or
// of a vector whose cosine to the other falls below 1 - angle or whose length is
// another. NaN is a difference.
func (c checked) compare(want checked, off, angle float64) error {
	for i, w := range want.logp {
		if d := math.Abs(float64(c.logp[i]) - float64(w)); !(d <= off) {
			return fmt.Errorf("log-probability %d is %v, on the processor %v", i, c.logp[i], w)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.vectors)) {
		w := want.vectors[name]
		var gg, ww, gw float64
		for i, x := range c.vectors[name] {
			x, y := float64(x), float64(w[i])
			gg, ww, gw = gg+x*x, ww+y*y, gw+x*y
		}
		if !(gw >= (1-angle)*math.Sqrt(gg*ww)) || !(math.Abs(gg-ww) <= (0.01+10*angle)*ww) {
			return fmt.Errorf("%s has length %.4g and cosine %.6f to the processor's of length %.4g",
				name, math.Sqrt(gg), gw/math.Sqrt(gg*ww), math.Sqrt(ww))
		}
	}
	return nil
}

// checkPass runs the model of the self-check. Its widths are those that the
// kernels for large models take.
func checkPass(b tensor.Backend, precision tensor.DType) (c checked, err error) {
	config := model.Config{VocabSize: 320, Hidden: 256, Intermediate: 512, Layers: 1, Heads: 4, KVHeads: 2, HeadDim: 64,
		MaxPositions: 64, NormEps: 1e-5, Tied: true, Rope: model.Rope{Theta: 10000, Type: "default"}, BOS: -1, PAD: -1}
	d, err := model.Load(b, config, checkWeights(config), false)
	if err != nil {
		return c, err
	}
	defer d.Close()
	d.SetPrecision(precision)
	a := adapter.NewConfig()
	a.DoRA, a.Rank = true, 8
	if _, err := adapter.Attach(d, a, 1); err != nil {
		return c, err
	}
	d.Params(func(name string, p *model.Param) { // B is 0 at first, and A would have no gradient
		if p.Grad != nil && p.Value.Cols() == a.Rank {
			b.Upload(p.Value, normals(name, p.Value.Len(), 0.05))
		}
	})
	d.Changed()
	batch := model.Batch{Starts: []int32{0, 23}}
	for i := range int32(40) { // two documents
		batch.IDs = append(batch.IDs, (i*37+5)%int32(config.VocabSize))
		batch.Rows, batch.Targets = append(batch.Rows, i), append(batch.Targets, (i*53+11)%int32(config.VocabSize))
	}
	p := model.NewPass(b)
	defer p.Close()
	p.Train = true
	scores, err := d.LogProb(p, batch)
	if err != nil {
		return c, err
	}
	c = checked{logp: append([]float32(nil), scores.LogP...), vectors: map[string][]float32{}}
	if err := d.Backward(p, normals("gradient", len(batch.Rows), 0.1)); err != nil {
		return c, err
	}
	var trained []tensor.AdamWParam
	var grads []*tensor.Tensor
	keep := func(name string, t *tensor.Tensor) {
		c.vectors[name] = make([]float32, t.Len())
		b.Download(c.vectors[name], t)
	}
	d.Params(func(name string, x *model.Param) {
		if x.Grad != nil {
			keep("the gradient of "+name, x.Grad)
			m, v := p.New(x.Value.Shape...), p.New(x.Value.Shape...)
			b.Zero(m)
			b.Zero(v)
			trained, grads = append(trained, tensor.AdamWParam{W: x.Value, G: x.Grad, M: m, V: v}), append(grads, x.Grad)
		}
	})
	sum := p.New(1)
	b.Zero(sum)
	b.SumSquares(sum, grads...)
	keep("the sum of squares of all gradients", sum)
	b.AdamW(trained, tensor.AdamW{LR: 0.1, Beta1: 0.9, Beta2: 0.999, Eps: 1, GradScale: 1, WeightDecay: 0.1, Step: 1})
	for _, t := range trained[:3] {
		keep(fmt.Sprint("an updated parameter of ", t.W.Shape), t.W)
	}
	if precision == tensor.FP8 { // which is of products with weights
		precision = tensor.BF16
	}
	few(b, p, d, keep, precision)
	if err := inBlocks(b, p, keep, precision); err != nil {
		return c, err
	}
	if err := experts(b, p, keep, precision); err != nil {
		return c, err
	}
	c.vectors["the largest logits"] = largest(b, p)
	return c, b.Sync()
}

// few keeps products of three rows, and the attention of one query to some of forty
// keys.
func few(b tensor.Backend, p *model.Pass, d *model.Decoder, keep func(string, *tensor.Tensor), precision tensor.DType) {
	put := func(name string, rows, cols int) *tensor.Tensor {
		t := p.New(rows, cols)
		b.Upload(t, normals(name, rows*cols, 1))
		return t
	}
	w, a := d.Layers[0].Attn.Q.W.Value, d.Layers[0].Attn
	x, y := p.New(3, w.Cols()), p.New(3, w.Rows())
	q, k, v := put("query", 1, a.Heads*a.HeadDim), put("keys", 40, a.KVHeads*a.HeadDim), put("values", 40, a.KVHeads*a.HeadDim)
	out, lse := p.New(1, a.Heads*a.HeadDim), p.New(1, a.Heads)
	o := tensor.Attention{Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Precision: precision, Q: []int32{0, 1}, K: []int32{0}, KLen: []int32{40}}
	step := func() {
		b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
		b.Attention(out, lse, q, k, v, o)
	}
	for i, name := range []string{"", ", captured", ", repeated"} { // if the backend does that
		b.Upload(x, normals(fmt.Sprint("rows", i), x.Len(), 1))
		o.K[0], o.KLen[0] = int32(i), int32(40-2*i)
		if r, ok := b.(tensor.Repeater); ok {
			r.Repeat(tensor.Step{In: x, Out: y}, o, step)
		} else {
			step()
		}
		keep("a product of few rows"+name, y)
		keep("the attention of one query"+name, out)
	}
}

// checkedBlocks are the types of weights in blocks whose products are checked.
var checkedBlocks = []tensor.DType{tensor.NF4, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q4_K, tensor.Q6_K}

// inBlocks keeps products of few and of many rows with weights in blocks, forward and
// backward.
func inBlocks(b tensor.Backend, p *model.Pass, keep func(string, *tensor.Tensor), precision tensor.DType) error {
	const rows, out, in = 40, 64, 256
	x, dy := p.New(rows, in), p.New(rows, out)
	b.Upload(x, normals("rows", rows*in, 1))
	b.Upload(dy, normals("gradient of rows", rows*out, 1))
	y, dx := p.New(rows, out), p.New(rows, in)
	for _, dt := range checkedBlocks {
		data := make([]byte, dt.Bytes(out*in))
		quant.Quantize(data, dt, normals(dt.String(), out*in, 1.0/16))
		w, err := b.Load(dt, data, out, in)
		if err != nil {
			return err
		}
		b.Precision(w, precision)
		three := b.View(y, 0, 3, out)
		b.MatMul(three, b.View(x, 0, 3, in), w, tensor.MatMul{TransB: true, Alpha: 1})
		keep(fmt.Sprintf("a product of few rows with a weight in %s", dt), three)
		b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true})
		keep(fmt.Sprintf("a product with a weight in %s", dt), y)
		b.MatMul(dx, dy, w, tensor.MatMul{Alpha: 1})
		keep(fmt.Sprintf("the gradient of a product with a weight in %s", dt), dx)
		err = b.Sync()
		b.Free(w)
		if err != nil {
			return err
		}
	}
	return nil
}

// experts keeps what the operations of a mixture of experts give for few and for
// many rows, of which two of four experts take each.
func experts(b tensor.Backend, p *model.Pass, keep func(string, *tensor.Tensor), precision tensor.DType) error {
	const of, top, width, inner = 4, 2, 256, 64
	data := make([]byte, tensor.BF16.Bytes(of*inner*width))
	quant.Quantize(data, tensor.BF16, normals("experts", of*inner*width, 1.0/16))
	w, err := b.Load(tensor.BF16, data, of*inner, width)
	if err != nil {
		return err
	}
	defer b.Free(w)
	b.Precision(w, precision)
	dw := p.New(of*inner, width)
	b.Zero(dw)
	for _, n := range []int{3, 40} {
		put := func(name string, rows, cols int) *tensor.Tensor {
			t := p.New(rows, cols)
			b.Upload(t, normals(fmt.Sprint(name, n), rows*cols, 1))
			return t
		}
		say := func(what string, t *tensor.Tensor) { keep(fmt.Sprintf("%s of %d rows' experts", what, n), t) }
		r := &tensor.Routing{Gating: tensor.Sigmoid, Experts: of, Gates: p.New(n * top),
			Rows: p.Ints(make([]int32, n*top)), Slots: b.View(p.Ints(make([]int32, n*top)), 0, n, top), Starts: p.Ints(make([]int32, of+1))}
		x, dy := put("rows", n, width), put("gradient", n*top, inner)
		rows, y, back, sum := p.New(n*top, width), p.New(n*top, inner), p.New(n*top, width), p.New(n, width)
		dgates, dlogits := p.New(n*top), p.New(n, of)
		b.Route(r, put("logits", n, of))
		say("the gates", r.Gates)
		b.Dispatch(rows, x, r, true)
		say("the input", rows)
		b.ExpertMatMul(y, rows, w, r, tensor.MatMul{TransB: true, Alpha: 1})
		say("the product", y)
		b.ExpertMatMul(back, dy, w, r, tensor.MatMul{Alpha: 1})
		say("the gradient of the product", back)
		b.ExpertOuter(dw, dy, rows, r)
		say("the gradient of the matrices", dw)
		b.Combine(sum, back, nil, r, false)
		say("the sum", sum)
		b.GateGrad(dgates, back, x, r)
		b.RouteGrad(dlogits, dgates, r)
		say("the gradient of the logits", dlogits)
		if err := b.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// largest returns the five largest of three rows of logits, and where they are.
func largest(b tensor.Backend, p *model.Pass) (all []float32) {
	const rows, words, k = 3, 3000, 5
	x := normals("logits", rows*words, 3)
	s, ok := b.(tensor.Sampler)
	if ok {
		logits, ids, z := p.New(rows, words), b.View(p.Ints(make([]int32, rows*k)), 0, rows, k), p.New(rows, k)
		b.Upload(logits, x)
		s.Largest(ids, z, logits)
		at, most := make([]int32, rows*k), make([]float32, rows*k)
		b.DownloadInts(at, ids)
		b.Download(most, z)
		for i := range at {
			all = append(all, float32(at[i]), most[i])
		}
		return all
	}
	for row := range rows {
		order := make([]int, words)
		for i := range order {
			order[i] = i
		}
		z := x[row*words:][:words]
		slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(z[j], z[i]) })
		for _, i := range order[:k] {
			all = append(all, float32(i), z[i])
		}
	}
	return all
}

// checkWeights are normal numbers in bfloat16.
func checkWeights(c model.Config) model.Weights {
	w := model.Weights{}
	add := func(name string, scale float64, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		var data []byte
		for _, x := range normals(name, n, scale) {
			if len(shape) == 1 { // a norm
				x++
			}
			data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(x)>>16))
		}
		w[name] = model.Weight{DType: tensor.BF16, Shape: shape, Data: data}
	}
	add("model.embed_tokens.weight", 0.1, c.VocabSize, c.Hidden)
	add("model.norm.weight", 0.1, c.Hidden)
	for i := range c.Layers {
		layer, q, kv := fmt.Sprintf("model.layers.%d.", i), c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		add(layer+"input_layernorm.weight", 0.1, c.Hidden)
		add(layer+"post_attention_layernorm.weight", 0.1, c.Hidden)
		for name, shape := range map[string][2]int{
			"self_attn.q_proj": {q, c.Hidden}, "self_attn.k_proj": {kv, c.Hidden}, "self_attn.v_proj": {kv, c.Hidden}, "self_attn.o_proj": {c.Hidden, q},
			"mlp.gate_proj": {c.Intermediate, c.Hidden}, "mlp.up_proj": {c.Intermediate, c.Hidden}, "mlp.down_proj": {c.Hidden, c.Intermediate},
		} {
			add(layer+name+".weight", 1/math.Sqrt(float64(shape[1])), shape[0], shape[1])
		}
	}
	return w
}

// normals returns n normal numbers of a name.
func normals(name string, n int, scale float64) []float32 {
	s, x := model.NewStream(1, name), make([]float32, n)
	for i := range x {
		x[i] = float32(scale * s.Normal(uint64(i)))
	}
	return x
}
