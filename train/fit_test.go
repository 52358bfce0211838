package train_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/memory"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/train"
)

// paging is a backend with memory of its own, of so many bytes.
type paging struct {
	*cpu.Backend
	bytes int64
	host  int   // tensors of AllocHost
	times int64 // plans count their bytes so often
}

func (p *paging) Limit() (int64, string, bool) { return p.bytes, "the device has free", true }

func (p *paging) AllocHost(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	p.host++
	return p.Alloc(dt, shape...)
}

func (p *paging) Plan() tensor.Plan {
	return &pagingPlan{Plan: p.Backend.Plan(), times: max(p.times, 1)}
}

// A pagingPlan counts the machine's memory apart. It is right where the peak is in
// the update.
type pagingPlan struct {
	tensor.Plan
	host, times int64
}

func (p *pagingPlan) AllocHost(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	t, err := p.Alloc(dt, shape...)
	if err == nil {
		p.host += int64(dt.Bytes(t.Len()))
	}
	return t, err
}

func (p *pagingPlan) Peak() tensor.Usage {
	u := p.Plan.Peak()
	u.Bytes, u.Host, u.Parts = u.Bytes-p.host, p.times*p.host, slices.Clone(u.Parts)
	for i := range u.Parts {
		if u.Parts[i].Name == tensor.ForOptimizer {
			u.Parts[i].Bytes -= p.host
		}
	}
	return u
}

// fit plans a step of all weights of planned.
func fit(b *paging, eight bool) (train.Fit, error) {
	o := train.NewOptions()
	o.MaxSteps, o.EightBit = 1, eight
	return o.PlanMemory(b, "shorten them", func(p tensor.Plan, paged int) (*train.Student, error) {
		s := &train.Student{}
		var err error
		if s.Decoder, err = model.Load(p, planned, model.Described(model.Random(planned, 1)), true); err != nil {
			return nil, err
		}
		o.Paged = paged
		row := model.Batch{}
		row.Add(model.Continuation{Context: []int32{1, 2, 3}, Target: []int32{4, 5}})
		_, err = train.Run(context.Background(), s.Decoder, &train.Likelihood{Model: s.Decoder, Rows: []model.Batch{row}}, o)
		return s, err
	})
}

// TestPlanMemory: moments stay on the device while they fit; else the fewest go to
// the machine's memory; a run that does not fit even so is refused.
func TestPlanMemory(t *testing.T) {
	b := &paging{Backend: cpu.New(1), bytes: 1e12}
	defer b.Close()
	for _, eight := range []bool{false, true} {
		b.bytes = 1e12
		all, err := fit(b, eight)
		if err != nil || all.Paged != 0 || all.Need.Host != 0 {
			t.Fatalf("without a limit: %+v, %v", all, err)
		}
		limit := func(need int64) int64 { return int64(math.Ceil(1.05 * float64(need))) }
		b.bytes = limit(all.Need.Bytes)
		if f, err := fit(b, eight); err != nil || f.Paged != 0 {
			t.Errorf("as much as it needs: %+v, %v", f, err)
		}
		last := 0
		for _, less := range []int64{1, 5 << 20, 20 << 20} {
			b.bytes = limit(all.Need.Bytes - less)
			f, err := fit(b, eight)
			large := int64(8192 * 512 * 8) // of the embedding, the first parameter
			if err != nil || f.Paged <= 0 || f.Paged < last || f.Need.Host < less || f.Need.Bytes > all.Need.Bytes-less || f.Need.Host > less+large {
				t.Errorf("%d bytes less: %+v, %v", less, f, err)
			}
			last = f.Paged
			var said []string
			f.Note(func(format string, _ ...any) { said = append(said, format) })
			if len(said) != 2 || !strings.Contains(said[1], "in the machine's memory") {
				t.Errorf("says %q", said)
			}
		}
		b.bytes = 60 << 20
		f, err := fit(b, eight)
		var large *memory.TooLarge
		if !errors.As(err, &large) || !strings.Contains(err.Error(), " of the machine's for the optimizer's state; the device has free 63 MB: ") || strings.Contains(err.Error(), "adamw_8bit") {
			t.Errorf("%+v, %v", f, err)
		}
		b.times, b.bytes = 1e9, limit(all.Need.Bytes-1)
		f, err = fit(b, eight)
		if !errors.As(err, &large) || f.Paged != 1 || strings.Contains(err.Error(), "the device has") || eight == strings.Contains(err.Error(), `: set optimizer = "adamw_8bit"; or `) {
			t.Errorf("too much for the machine: %+v, %v", f, err)
		}
		b.times = 1
	}
}

// TestPaged: the moments of so many parameters are allocated by AllocHost.
func TestPaged(t *testing.T) {
	for paged, want := range map[int]int{0: 0, 3: 6, math.MaxInt: 0} {
		b := &paging{Backend: cpu.New(1)}
		d := modeltest.Decoder(t, b, "plain", true)
		if paged == math.MaxInt {
			d.Params(func(_ string, p *model.Param) {
				if p.Grad != nil {
					want += 2
				}
			})
		}
		o := train.NewOptions()
		o.MaxSteps, o.Paged = 2, paged
		_, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: slices.Concat(modeltest.Batch().Split())}, o)
		if err != nil || b.host != want {
			t.Errorf("paged %d: %d tensors in the machine's memory; want %d, %v", paged, b.host, want, err)
		}
		b.Close()
	}
}
