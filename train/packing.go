package train

import (
	"fmt"
	"math"

	"pipe/model"
	"pipe/tensor"
)

// packingTolerance bounds what packing may change, relative: float32 sums in
// another order.
const packingTolerance = 1e-5

// CheckPacking proves on a row that its documents do not influence each other:
// packed and alone they must have the same losses and gradients. It returns an
// error that names the document, and the parameter, of which that is not so.
//
// The loss L of a document, summed over its scored tokens, may differ by at
// most 1e-5·max(1, |L|). The gradient G of each trained tensor, of the mean
// loss of the row, may differ from the sum of the documents' own gradients by
// at most 1e-5·max(‖G‖, ‖all G‖/100) in 2-norm: a tensor whose gradient is
// all but nothing is held to the size of the others, whose rounding it has.
//
// Gradients must be zero before, and are after. p is used without dropout; no
// memory is allocated but its workspace.
func CheckPacking(p *model.Pass, d *model.Decoder, row model.Batch) error {
	c := &packing{p: p, d: d, row: row, docs: row.Split(), scale: 1 / float64(max(len(row.Targets), 1))}
	d.Params(func(name string, x *model.Param) {
		if x.Grad != nil {
			c.params = append(c.params, named{name, x.Grad})
		}
	})
	defer func(train, noDropout bool) { p.Train, p.NoDropout = train, noDropout }(p.Train, p.NoDropout)
	p.Train, p.NoDropout = len(c.params) > 0, true
	err := c.check()
	c.zero()
	if err == nil {
		err = p.Sync()
	}
	return err
}

type named struct {
	name string
	grad *tensor.Tensor
}

type packing struct {
	p      *model.Pass
	d      *model.Decoder
	row    model.Batch
	docs   []model.Batch
	scale  float64 // of a document's summed loss in the loss of the row
	params []named
}

func (c *packing) check() error {
	packed, err := c.run(c.row, 1, -1)
	if err != nil {
		return err
	}
	norms, err := c.norms()
	if err != nil {
		return err
	}
	for i, one := range c.docs {
		alone, err := c.run(one, -1, -1)
		if err != nil {
			return err
		}
		if diff := math.Abs(packed[i].Chosen - alone[0].Chosen); !(diff <= packingTolerance*math.Max(1, math.Abs(alone[0].Chosen))) {
			return fmt.Errorf("document %d has loss %v in the packed row and %v alone: documents influence each other", i, packed[i].Chosen, alone[0].Chosen)
		}
	}
	// What is left in the gradients is the difference.
	left, err := c.norms()
	if err != nil {
		return err
	}
	if _, plan := c.p.Backend.(tensor.Plan); plan {
		return nil // there are no numbers
	}
	if bad := worst(left, norms); bad >= 0 {
		return c.blame(bad, left[bad], norms[bad])
	}
	return nil
}

// run returns the losses of the documents of b and adds sign times the
// gradient to what there is: of document only of b, or of all if it is -1.
func (c *packing) run(b model.Batch, sign float64, only int) ([]Pair, error) {
	s, err := c.d.LogProb(c.p, b)
	if err != nil {
		return nil, err
	}
	docs := perDocument(b, s.LogP)
	if len(c.params) == 0 {
		return docs, nil
	}
	grad := make([]float32, len(s.LogP))
	at := 0
	for i, doc := range docs {
		n := int(doc.Rejected)
		if only < 0 || i == only {
			set(grad[at:at+n], -sign*c.scale)
		}
		at += n
	}
	return docs, c.d.Backward(c.p, grad)
}

// norms returns the 2-norm of the gradient of each parameter.
func (c *packing) norms() ([]float64, error) {
	m := c.p.Mark()
	defer c.p.Release(m)
	sum := c.p.New(1)
	out := make([]float64, len(c.params))
	for i, x := range c.params {
		var v [1]float32
		c.p.Zero(sum)
		c.p.SumSquares(sum, x.grad)
		c.p.Download(v[:], sum)
		out[i] = math.Sqrt(float64(v[0]))
	}
	return out, c.p.Sync()
}

// worst returns the parameter that is furthest beyond the tolerance, -1 if none
// is. A NaN is.
func worst(left, norms []float64) int {
	all := 0.0
	for _, n := range norms {
		all += n * n
	}
	all = math.Sqrt(all)
	bad, most := -1, 1.0
	for i := range left {
		over := left[i] / (packingTolerance * math.Max(norms[i], all/100))
		if all == 0 && left[i] == 0 {
			continue
		}
		if over != over {
			return i
		}
		if over > most {
			bad, most = i, over
		}
	}
	return bad
}

func (c *packing) zero() {
	for _, x := range c.params {
		c.p.Zero(x.grad)
	}
}

// blame says of which document the gradient of a parameter is wrong: each is
// scored by itself, in the row and alone.
func (c *packing) blame(param int, diff, norm float64) error {
	doc, most := 0, -1.0
	for i, one := range c.docs {
		c.zero()
		if _, err := c.run(c.row, 1, i); err != nil {
			return err
		}
		if _, err := c.run(one, -1, -1); err != nil {
			return err
		}
		left, err := c.norms()
		if err != nil {
			return err
		}
		if v := left[param]; v != v {
			doc = i
			break
		} else if v > most {
			doc, most = i, v
		}
	}
	return fmt.Errorf("the gradient of %s (norm %.4g) differs by %.3g between the packed row and its documents alone, most for document %d: documents influence each other", c.params[param].name, norm, diff, doc)
}
