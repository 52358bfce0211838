//go:build cuda

package gpu

import (
	"slices"

	"pipe/tensor"
)

// A plan is a backend without a device: operations go the same ways, but what
// they allocate is only counted, and nothing is launched, copied or cleared.
type plan struct{ *Backend }

// counts is what a plan has allocated. Memory counts when it is allocated,
// because a device gives it then.
type counts struct {
	purpose string
	tally   tensor.Tally
	host    tensor.Tally // of the machine's memory
	taken   map[uint64]piece
	next    uint64 // address
}

type piece struct {
	purpose string
	bytes   int64
	from    *tensor.Tally
}

// forKernels is the memory of compiled kernels.
const forKernels = "kernels"

// kernelBytes is what loading all modules takes.
const kernelBytes = 32 << 20

var (
	_ tensor.Planner = (*Backend)(nil)
	_ tensor.Limited = (*Backend)(nil)
	_ tensor.Plan    = (*plan)(nil)
)

// Plan implements [tensor.Planner].
func (b *Backend) Plan() tensor.Plan {
	c := &counts{purpose: tensor.ForWeights, taken: map[uint64]piece{}}
	c.tally.Add(forKernels, kernelBytes)
	return &plan{&Backend{
		name: b.name, sms: b.sms, major: b.major, shared: b.shared, group: b.group, noWgmma: b.noWgmma, noThin: b.noThin, noEight: b.noEight, // which decide what is allocated
		steps:  steps{off: b.steps.off},
		counts: c, live: map[*memory]struct{}{},
	}}
}

// Limit implements [tensor.Limited].
func (b *Backend) Limit() (bytes int64, from string, ok bool) {
	if b.stream == nil {
		return 0, "", false
	}
	free, _, err := b.stream.Memory()
	return free, "the device has free", err == nil
}

// purpose is what is allocated next.
func (b *Backend) purpose() string {
	if b.counts != nil {
		return b.counts.purpose
	}
	return ""
}

// take counts an allocation and returns an address that nothing else has.
func (c *counts) take(purpose string, bytes int) uint64 {
	return c.add(piece{purpose, granted(bytes), &c.tally})
}

// takeHost is take of the machine's memory, in its pages. Their tables, at most a
// 512th of it on the device, are not counted.
func (c *counts) takeHost(bytes int) uint64 {
	const page = 4 << 10
	return c.add(piece{c.purpose, (max(int64(bytes), 1) + page - 1) / page * page, &c.host})
}

func (c *counts) add(x piece) uint64 {
	c.next += uint64(x.bytes)
	c.taken[c.next] = x
	x.from.Add(x.purpose, x.bytes)
	return c.next
}

func (c *counts) release(p uint64) {
	if x, ok := c.taken[p]; ok {
		x.from.Add(x.purpose, -x.bytes)
		delete(c.taken, p)
	}
}

// granted returns what the driver takes for an allocation: whole pages of 2 MiB,
// several small ones sharing one.
func granted(bytes int) int64 {
	to := int64(512)
	if bytes >= 1<<20 {
		to = 2 << 20
	}
	return (max(int64(bytes), 1) + to - 1) / to * to
}

// For implements [tensor.Plan].
func (p *plan) For(purpose string) { p.counts.purpose = purpose }

// Peak implements [tensor.Plan].
func (p *plan) Peak() tensor.Usage {
	u := p.counts.tally.Peak()
	u.Host = p.counts.host.Peak().Bytes
	return u
}

// Close implements [tensor.Backend].
func (p *plan) Close() error { return nil }

// Load implements [tensor.Memory]; the data is not looked at.
func (p *plan) Load(dt tensor.DType, _ []byte, shape ...int) (*tensor.Tensor, error) {
	n := checkShape("load", dt, shape)
	m := &memory{ptr: p.counts.take(tensor.ForWeights, dt.Bytes(n)), frozen: true, keep: true}
	if dt == tensor.I32 {
		m.host = make([]int32, n)
	}
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, nil
}

// Download gives ones.
func (p *plan) Download(dst []float32, src *tensor.Tensor) {
	p.Backend.Download(dst, src)
	for i := range dst {
		dst[i] = 1
	}
}

// DownloadInts gives ones.
func (p *plan) DownloadInts(dst []int32, src *tensor.Tensor) {
	for i := range dst {
		dst[i] = 1
	}
	p.Backend.DownloadInts(dst, src)
}
