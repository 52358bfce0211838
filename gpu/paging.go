//go:build cuda

package gpu

import (
	"fmt"
	"slices"

	"pipe/tensor"
)

// What does not fit the device can lie in the machine's memory, page-locked and
// mapped: kernels address it as their own, and each access crosses the bus.
// AdamW reads and writes moments once a step, in whole lines of 128 bytes and in
// both directions at once, which is as fast as the bus is: decision 16.

var _ tensor.HostAllocator = (*Backend)(nil)

// AllocHost implements [tensor.HostAllocator]. Each tensor is page-locked by
// itself, so that the driver is never asked for more than one at a time.
func (b *Backend) AllocHost(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	n := checkShape("alloc on the host", dt, shape)
	if b.err != nil {
		return nil, b.err
	}
	m := &memory{}
	if bytes := dt.Bytes(n); b.counts != nil {
		m.ptr = b.counts.takeHost(bytes)
	} else if err := b.lock(m, bytes); err != nil {
		return nil, fmt.Errorf("gpu: alloc %s %v on the host: %w", dt, shape, err)
	}
	b.live[m] = struct{}{}
	b.clear(m.ptr, dt.Bytes(n))
	if dt == tensor.I32 {
		m.host = make([]int32, n)
	}
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, nil
}

// lock gives m memory of the machine.
func (b *Backend) lock(m *memory, bytes int) error {
	pinned, at, err := b.stream.Mapped(max((bytes+15)&^15, 256)) // as take does
	if err != nil {
		return fmt.Errorf("the machine gave no %d MiB of memory that the device may use, beside %d MiB that it has: other programs may have taken it, or a limit of this one does not allow it (ulimit -l, or of its container): %w",
			bytes>>20, b.locked>>20, err)
	}
	m.ptr, m.pinned = at, pinned
	b.locked += int64(len(pinned))
	return nil
}

// unlock gives back what lock gave, once the device is done with all earlier work.
func (b *Backend) unlock(m *memory) {
	if b.stream == nil {
		return
	}
	b.check("free", b.stream.Sync())
	b.check("free", b.stream.FreePinned(m.pinned))
	b.locked -= int64(len(m.pinned))
}

// settled waits until the device is done with all earlier work, and returns the
// bytes of a tensor that lies in the machine's memory, n of them.
func (b *Backend) settled(op string, m *memory, n int) []byte {
	if b.err != nil {
		return nil
	}
	if err := b.stream.Sync(); err != nil {
		b.check(op, err)
		return nil
	}
	return m.pinned[:n]
}

// uploadTo copies to a tensor, wherever it lies.
func (b *Backend) uploadTo(op string, m *memory, src []byte) {
	if m.pinned == nil {
		b.upload(op, m.ptr, src)
		return
	}
	copy(b.settled(op, m, len(src)), src)
}

// downloadFrom copies from a tensor, wherever it lies.
func (b *Backend) downloadFrom(op string, dst []byte, m *memory) {
	if m.pinned == nil {
		b.download(op, dst, m.ptr)
		return
	}
	copy(dst, b.settled(op, m, len(dst)))
}
