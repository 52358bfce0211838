//go:build cuda

package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// memory is the storage of a tensor.
type memory struct {
	ptr    uint64  // device address
	frozen bool    // made by Load, or a view of that: never written
	keep   bool    // made by Load: copies for the kernels may be kept
	half   bool    // products with it round to bfloat16,
	eight  bool    // and those of many rows to 8 bits
	host   []int32 // copy of the elements of an I32 tensor; unknown where a kernel wrote
	pinned []byte  // where the elements lie, in the machine's memory; nil: on the device
	dead   bool
	of     *memory // that a view shows
	copied uint64  // the weight in bfloat16, once it is kept
	codes  uint64  // the weight in 8 bits with the scales of its rows, and
	turned uint64  // its codes transposed, once they are kept
	writes uint64  // how often something was to write it or a view of it
}

// root is the memory that m is or shows.
func (m *memory) root() *memory { return cmp.Or(m.of, m) }

// unknown marks an element of memory.host that a kernel wrote.
const unknown = math.MinInt32

// take allocates device memory for a purpose, such as tensor.ForScratch; what is
// empty has an address too.
func (b *Backend) take(purpose string, bytes int) (uint64, error) {
	if b.counts != nil {
		return b.counts.take(purpose, bytes), nil
	}
	if b.breaks() {
		return 0, errCapture
	}
	p, err := b.stream.Alloc(max((bytes+15)&^15, 256)) // kernels read 16 bytes at a time
	if errors.Is(err, cux.ErrOutOfMemory) {
		free, total, _ := b.stream.Memory()
		return 0, fmt.Errorf("the device has no %d MiB left (%d of %d MiB are free): %w", bytes>>20, free>>20, total>>20, err)
	}
	return p, err
}

// release gives back what take took, once the device is done with all earlier work.
// Steps that were captured may name it.
func (b *Backend) release(op string, p uint64) {
	switch {
	case b.counts != nil:
		b.counts.release(p)
	case b.stream != nil:
		b.forget()
		b.check(op, b.stream.Free(p))
	}
}

// Alloc implements [tensor.Memory].
func (b *Backend) Alloc(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	n := checkShape("alloc", dt, shape)
	if b.err != nil {
		return nil, b.err
	}
	p, err := b.take(b.purpose(), dt.Bytes(n))
	if err != nil {
		return nil, fmt.Errorf("gpu: alloc %s %v: %w", dt, shape, err)
	}
	m := &memory{ptr: p}
	b.live[m] = struct{}{}
	b.clear(p, dt.Bytes(n))
	if dt == tensor.I32 {
		m.host = make([]int32, n)
	}
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, nil
}

// Load implements [tensor.Memory]. It copies data, which must stay as it is only
// until then.
func (b *Backend) Load(dt tensor.DType, data []byte, shape ...int) (*tensor.Tensor, error) {
	n := checkShape("load", dt, shape)
	if len(data) != dt.Bytes(n) {
		panic(fmt.Sprintf("gpu: load: %d bytes for %s %v", len(data), dt, shape))
	}
	if b.err != nil {
		return nil, b.err
	}
	p, err := b.take(tensor.ForWeights, len(data))
	if err != nil {
		return nil, fmt.Errorf("gpu: load %s %v: %w", dt, shape, err)
	}
	m := &memory{ptr: p, frozen: true, keep: true}
	b.live[m] = struct{}{}
	if dt == tensor.I32 {
		m.host = make([]int32, n)
		copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.host))), 4*n), data)
	}
	b.upload("load", p, data)
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, b.err
}

// Lent implements [tensor.Borrower]: Load has copied the data.
func (b *Backend) Lent(_ *tensor.Tensor, forget func()) { forget() }

// Precision implements [tensor.Memory].
func (b *Backend) Precision(t *tensor.Tensor, dt tensor.DType) {
	m := mem("precision", t)
	checks.Precision(dt)
	if err := b.HasPrecision(dt); err != nil {
		b.fail(fmt.Errorf("gpu: precision: %w", err))
		return
	}
	b.drop(m)
	b.forget()
	m.half, m.eight = dt != tensor.F32, dt == tensor.FP8
}

// drop gives up the kept copies of a weight.
func (b *Backend) drop(m *memory) {
	for _, p := range [...]*uint64{&m.copied, &m.codes, &m.turned} {
		if *p != 0 {
			b.release("free", *p)
			*p = 0
		}
	}
}

// Free implements [tensor.Memory].
func (b *Backend) Free(t *tensor.Tensor) {
	m := mem("free", t)
	if m.of == nil {
		b.drop(m)
		if m.pinned != nil {
			b.unlock(m)
		} else {
			b.release("free", m.ptr)
		}
		delete(b.live, m)
	}
	*m = memory{dead: true}
}

// View implements [tensor.Memory].
func (b *Backend) View(t *tensor.Tensor, offset int, shape ...int) *tensor.Tensor {
	m, n := mem("view", t), checks.View(t, offset, shape)
	v := &memory{ptr: m.ptr + uint64(t.DType.Bytes(offset)), frozen: m.frozen, half: m.half, eight: m.eight, of: m.root()}
	if t.DType == tensor.I32 {
		v.host = m.host[offset : offset+n : offset+n]
	}
	if m.pinned != nil {
		v.pinned = m.pinned[t.DType.Bytes(offset):]
	}
	return &tensor.Tensor{DType: t.DType, Shape: slices.Clone(shape), Mem: v}
}

// bytesOf shows numbers as bytes.
func bytesOf[E any](s []E) []byte {
	var e E
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(e)))
}

func (b *Backend) upload(op string, dst uint64, src []byte) {
	if b.err == nil && b.counts == nil && len(src) > 0 && !b.breaks() {
		b.check(op, b.staging.upload(b.stream, dst, src))
	}
}

func (b *Backend) download(op string, dst []byte, src uint64) {
	if b.err == nil && b.counts == nil && len(dst) > 0 && !b.breaks() {
		b.check(op, b.stream.Download(unsafe.Pointer(unsafe.SliceData(dst)), src, len(dst)))
	}
}

func (b *Backend) clear(p uint64, bytes int) {
	if b.err == nil && b.counts == nil && bytes > 0 {
		b.check("zero", b.stream.Clear(p, bytes))
	}
}

// Upload implements [tensor.Memory].
func (b *Backend) Upload(dst *tensor.Tensor, src []float32) {
	m := wantType("upload", dst, tensor.F32)
	writable("upload", m)
	checkLen("upload", dst.Len(), len(src))
	b.uploadTo("upload", m, bytesOf(src))
}

// UploadInts implements [tensor.Memory].
func (b *Backend) UploadInts(dst *tensor.Tensor, src []int32) {
	m := wantType("upload", dst, tensor.I32)
	writable("upload", m)
	checkLen("upload", dst.Len(), len(src))
	b.uploadTo("upload", m, bytesOf(src))
	copy(m.host, src)
}

// UploadBytes implements [tensor.Memory].
func (b *Backend) UploadBytes(dst *tensor.Tensor, src []byte) {
	m := wantType("upload", dst, tensor.U8)
	writable("upload", m)
	checkLen("upload", dst.Len(), len(src))
	b.uploadTo("upload", m, src)
}

// Download implements [tensor.Memory].
func (b *Backend) Download(dst []float32, src *tensor.Tensor) {
	m := wantType("download", src, tensor.F32)
	checkLen("download", len(dst), src.Len())
	b.downloadFrom("download", bytesOf(dst), m)
}

// DownloadInts implements [tensor.Memory].
func (b *Backend) DownloadInts(dst []int32, src *tensor.Tensor) {
	m := wantType("download", src, tensor.I32)
	checkLen("download", len(dst), src.Len())
	b.downloadFrom("download", bytesOf(dst), m)
	if b.err == nil {
		copy(m.host, dst)
	}
}

// DownloadBytes implements [tensor.Memory].
func (b *Backend) DownloadBytes(dst []byte, src *tensor.Tensor) {
	m := wantType("download", src, tensor.U8)
	checkLen("download", len(dst), src.Len())
	b.downloadFrom("download", dst, m)
}

// Zero implements [tensor.Memory].
func (b *Backend) Zero(t *tensor.Tensor) {
	m := mem("zero", t)
	writable("zero", m)
	if b.err != nil || m.host != nil && b.breaks() {
		return
	}
	b.clear(m.ptr, t.DType.Bytes(t.Len()))
	clear(m.host)
}

// Copy implements [tensor.Memory].
func (b *Backend) Copy(dst, src *tensor.Tensor) {
	d, s := mem("copy", dst), mem("copy", src)
	writable("copy", d)
	checks.Copy(dst, src)
	if n := dst.DType.Bytes(dst.Len()); b.err == nil && n > 0 && d.ptr != s.ptr && (d.host == nil || !b.breaks()) {
		switch {
		case b.counts != nil:
		case d.pinned != nil || s.pinned != nil:
			b.check("copy", b.stream.Move(d.ptr, s.ptr, n))
		default:
			b.check("copy", b.stream.Copy(d.ptr, s.ptr, n))
		}
		copy(d.host, s.host)
	}
}

// A scratch is device memory that operations use until they are done.
type scratch struct {
	ptr   uint64
	bytes int
}

// Slots of scratch. Operations that call one another use different ones.
const (
	scratchLeft     = iota // the first operand of a product in bfloat16
	scratchRight           // a weight, expanded
	scratchLow             // of updates of low rank
	scratchLogits          // a piece of logits
	scratchParts           // parts of sums
	scratchDelta           // of attention's gradient
	scratchHeads           // of attention
	scratchNorm            // of DoRANorm
	scratchRotation        // cosines and sines
	scratchCodes           // of moments of 8 bits
	scratchTickets         // counters of blocks
	scratchExperts         // tiles of experts' rows
	scratchEight           // the first operand of a product in 8 bits
	scratchTurned          // codes of a weight, transposed
	scratchSlots
)

// scratch returns at least that many bytes, which lie at the same place while
// nobody asks for more.
func (b *Backend) scratch(slot, bytes int) uint64 {
	s := &b.scratches[slot]
	if b.err != nil || bytes <= s.bytes && s.ptr != 0 || b.breaks() {
		return s.ptr
	}
	if s.ptr != 0 {
		b.release("scratch", s.ptr) // waits for those who use it
		*s = scratch{}
	}
	p, err := b.take(tensor.ForScratch, bytes)
	if err != nil {
		b.fail(fmt.Errorf("gpu: scratch: %w", err))
		return 0
	}
	*s = scratch{p, bytes}
	return p
}

// constants are numbers that many operations in a row read.
type constants struct {
	scratch
	last []int32
}

// Slots of constants.
const (
	constRows  = iota // of rows that are scattered or added
	constTiles        // of attention, as the following
	constFew
	constGradTiles
	constGradKeys
	constWeigh
	constantSlots
)

// constants returns v on the device. It stays there until the next call with
// that slot.
func (b *Backend) constants(slot int, v []int32) uint64 {
	c := &b.consts[slot]
	sent := c.ptr != 0 && slices.Equal(c.last, v)
	if b.capture != nil && sent && (slot == constFew || slot == constTiles) { // Repeat sends them
		return c.ptr
	}
	if b.err != nil || b.breaks() || sent {
		return c.ptr
	}
	if need := 4 * len(v); c.ptr == 0 || need > c.bytes {
		if c.ptr != 0 {
			b.release("constants", c.ptr)
		}
		c.scratch = scratch{}
		p, err := b.take(tensor.ForScratch, 2*need)
		if err != nil {
			b.fail(fmt.Errorf("gpu: constants: %w", err))
			return 0
		}
		c.scratch = scratch{p, max(2*need, 256)}
	}
	c.last = append(c.last[:0], v...)
	b.upload("constants", c.ptr, bytesOf(v))
	return c.ptr
}

func (b *Backend) freeScratch() {
	for i := range b.scratches {
		if p := b.scratches[i].ptr; p != 0 {
			b.stream.Free(p)
		}
	}
	for i := range b.consts {
		if p := b.consts[i].ptr; p != 0 {
			b.stream.Free(p)
		}
	}
	for i := range b.lists {
		if p := b.lists[i].ptr; p != 0 {
			b.stream.Free(p)
		}
	}
	b.staging.close(b.stream)
}
