//go:build cuda

package main

import (
	"time"

	"pipe/gpu/cux"
)

// A timer measures what a stream does with events. Each sample is as many
// operations as make it long, queued behind other work, so that neither the
// launches nor the resolution of the clock show.
type timer struct {
	stream  *cux.Stream
	begin   cux.Event
	end     cux.Event
	samples int
	pad     uint64 // memory that is cleared before each sample
	bytes   int
}

// sampleMS is how long a sample should be, in milliseconds, and most how many
// operations it has.
const (
	sampleMS = 0.4
	most     = 32
)

// newTimer takes bytes of memory for what runs before a sample.
func newTimer(s *cux.Stream, samples, bytes int) (t *timer, err error) {
	t = &timer{stream: s, samples: samples, bytes: bytes}
	if t.begin, err = s.NewEvent(); err != nil {
		return nil, err
	}
	if t.end, err = s.NewEvent(); err != nil {
		return nil, err
	}
	t.pad, err = s.Alloc(bytes)
	return t, err
}

// run returns the median of the milliseconds that an operation takes. op queues
// number i, and should use other memory than those before it.
func (t *timer) run(op func(i int)) (float64, error) {
	op(0)
	op(1)
	if err := t.stream.Sync(); err != nil {
		return 0, err
	}
	i := 2
	sample := func(n int) (float64, error) {
		for range 2 {
			if err := t.stream.Clear(t.pad, t.bytes); err != nil {
				return 0, err
			}
		}
		t.stream.Record(t.begin)
		for range n {
			op(i)
			i++
		}
		t.stream.Record(t.end)
		if err := t.stream.Sync(); err != nil {
			return 0, err
		}
		ms, err := t.end.Since(t.begin)
		return float64(ms) / float64(n), err
	}
	one, err := sample(1)
	if err != nil {
		return 0, err
	}
	n := max(1, min(most, int(sampleMS/max(one, 1e-6))))
	var all []float64
	for start := time.Now(); len(all) < t.samples && (len(all) < 3 || time.Since(start) < 2*time.Second); {
		ms, err := sample(n)
		if err != nil {
			return 0, err
		}
		all = append(all, ms)
	}
	return median(all), nil
}
