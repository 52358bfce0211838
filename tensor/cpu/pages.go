package cpu

import "unsafe"

// Large memory comes from the operating system, not from Go's heap: Free gives
// it back at once, so that a run needs what its tensors need and not up to
// twice as much until the collector has looked.

// leastPages is the size in bytes from which memory is large.
const leastPages = 256 << 10

// large returns size zeroed bytes for m to own, nil if they are few or there
// are none to have.
func (b *Backend) large(m *memory, size int) []byte {
	if size < leastPages {
		return nil
	}
	p := mapPages(size)
	if p == nil {
		return nil
	}
	if b.pages == nil {
		b.pages = map[*memory][][]byte{}
	}
	b.pages[m] = append(b.pages[m], p)
	return p
}

// zeros returns n zeros that begin a cache line, for m to own.
func (b *Backend) zeros(m *memory, n int) []float32 {
	if p := b.large(m, 4*n); p != nil {
		return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p))), n)
	}
	return aligned(n)
}

// zeroBytes returns n zeros for m to own.
func (b *Backend) zeroBytes(m *memory, n int) []byte {
	if p := b.large(m, n); p != nil {
		return p
	}
	return make([]byte, n)
}

// release gives the pages of m back.
func (b *Backend) release(m *memory) {
	for _, p := range b.pages[m] {
		unmapPages(p)
	}
	delete(b.pages, m)
}
