//go:build cuda

package main

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// pagingCommand measures what the copy engines carry over the bus in each direction
// and in both at once, and holds updates whose moments lie in the machine's memory
// against that.
func pagingCommand(f *flag.FlagSet, args []string) error {
	n := f.Int("n", 256<<20, "parameters of an update")
	tensors := f.Int("tensors", 16, "tensors that they are divided among")
	samples := f.Int("samples", 6, "samples of which the median is taken")
	f.Parse(args)
	b, err := open()
	if err != nil {
		return err
	}
	defer b.Close()
	var both float64 // GB/s in each direction
	for _, w := range []struct {
		name     string
		to, from bool
	}{{"to the device", true, false}, {"from the device", false, true}, {"both ways, each", true, true}} {
		name := "bus, " + w.name
		both, err = bus(streamOf(b.Backend), min(1<<28, 8**n), *samples, w.to, w.from)
		if err := report(record{Side: "pipe", Name: name, Value: both, Unit: "GB/s"}, name, err); err != nil {
			return err
		}
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.U8} {
		here, err := update(b.Backend, dt, *n, *tensors, *samples, false)
		name := fmt.Sprintf("adamw %s %d", dt, *n)
		moved := float64(2*dt.Bytes(*n)) / 1e6 // MB of moments, each way
		if err := report(record{Side: "pipe", Name: name, Value: moved / here, Unit: "GB/s", MS: here, Note: "of moments each way, on the device"}, name, err); err != nil {
			return err
		}
		there, err := update(b.Backend, dt, *n, *tensors, *samples, true)
		r := record{Side: "pipe", Name: name + " paged", Value: moved / there, Unit: "GB/s", MS: there}
		r.Note = fmt.Sprintf("of moments each way, %.0f %% of the bus; %.1f times the time", 100*r.Value/both, there/here)
		if err := report(r, r.Name, err); err != nil {
			return err
		}
	}
	return nil
}

// bus returns the GB a second that go in each of the directions that are asked for,
// by copies of so many bytes on a stream for each.
func bus(s *cux.Stream, bytes, samples int, to, from bool) (rate float64, err error) {
	const copies = 8
	type way struct {
		stream   *cux.Stream
		dst, src uint64
	}
	var ways []way
	for _, up := range []bool{true, false} {
		if up && !to || !up && !from {
			continue
		}
		on, err := s.Beside()
		if err != nil {
			return 0, err
		}
		defer on.Close()
		host, mapped, err := s.Mapped(bytes)
		if err != nil {
			return 0, err
		}
		defer s.FreePinned(host)
		device, err := s.Alloc(bytes)
		if err != nil {
			return 0, err
		}
		defer s.Free(device)
		clear(host)
		if err := errors.Join(s.Clear(device, bytes), s.Sync()); err != nil {
			return 0, err
		}
		if up {
			ways = append(ways, way{on, device, mapped})
		} else {
			ways = append(ways, way{on, mapped, device})
		}
	}
	var all []float64
	for range samples + 1 {
		start := time.Now()
		for range copies {
			for _, w := range ways {
				err = errors.Join(err, w.stream.Move(w.dst, w.src, bytes))
			}
		}
		for _, w := range ways {
			err = errors.Join(err, w.stream.Sync())
		}
		if err != nil {
			return 0, err
		}
		all = append(all, copies*float64(bytes)/time.Since(start).Seconds()/1e9)
	}
	return median(all[1:]), nil
}

// update returns the milliseconds of an update of n parameters in so many tensors,
// with moments of dt, which lie in the machine's memory if host is set.
func update(b tensor.Backend, dt tensor.DType, n, tensors, samples int, host bool) (ms float64, err error) {
	var owned []*tensor.Tensor
	defer func() {
		for _, t := range owned {
			b.Free(t)
		}
	}()
	own := func(t *tensor.Tensor, err error) *tensor.Tensor {
		owned = append(owned, must(t, err))
		return t
	}
	moments := b.Alloc
	if host {
		moments = b.(tensor.HostAllocator).AllocHost
	}
	o := tensor.AdamW{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, GradScale: 1}
	var ps []tensor.AdamWParam
	err = attempt(func() error {
		for range tensors {
			k := n / tensors
			p := tensor.AdamWParam{W: own(b.Alloc(tensor.F32, k)), G: own(b.Alloc(tensor.F32, k)), M: own(moments(dt, k)), V: own(moments(dt, k))}
			if dt == tensor.U8 {
				p.MMax, p.VMax = own(b.Alloc(tensor.F32, tensor.AdamWBlocks(k))), own(b.Alloc(tensor.F32, tensor.AdamWBlocks(k)))
			}
			ps = append(ps, p)
		}
		return b.Sync()
	})
	if err != nil {
		return 0, err
	}
	var all []float64
	for o.Step = 1; o.Step <= samples+2; o.Step++ {
		start := time.Now()
		if dt == tensor.U8 {
			b.AdamW8bit(ps, o)
		} else {
			b.AdamW(ps, o)
		}
		if err := b.Sync(); err != nil {
			return 0, err
		}
		all = append(all, 1000*time.Since(start).Seconds())
	}
	return median(all[2:]), nil
}
