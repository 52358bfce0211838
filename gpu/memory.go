//go:build cuda

package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
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

// maxElements keeps sizes in bytes far from overflow.
const maxElements = math.MaxInt / 64

func checkShape(op string, dt tensor.DType, shape []int) (n int) {
	if !dt.Valid() {
		panic(fmt.Sprintf("gpu: %s: invalid %s", op, dt))
	}
	n = 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > maxElements/d {
			panic(fmt.Sprintf("gpu: %s: bad shape %v", op, shape))
		}
		n *= d
	}
	if dt.Quantized() && n > 0 && (len(shape) == 0 || shape[len(shape)-1]%dt.Block() != 0) {
		panic(fmt.Sprintf("gpu: %s: rows of %v are not whole blocks of %s", op, shape, dt))
	}
	return n
}

// take allocates device memory for a purpose, such as tensor.ForScratch; what is
// empty has an address too.
func (b *Backend) take(purpose string, bytes int) (uint64, error) {
	if b.counts != nil {
		return b.counts.take(purpose, bytes), nil
	}
	p, err := b.stream.Alloc(max((bytes+15)&^15, 256)) // kernels read 16 bytes at a time
	if errors.Is(err, cux.ErrOutOfMemory) {
		free, total, _ := b.stream.Memory()
		return 0, fmt.Errorf("the device has no %d MiB left (%d of %d MiB are free): %w", bytes>>20, free>>20, total>>20, err)
	}
	return p, err
}

// release gives back what take took, once the device is done with all earlier work.
func (b *Backend) release(op string, p uint64) {
	switch {
	case b.counts != nil:
		b.counts.release(p)
	case b.stream != nil:
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
	b.check("load", b.staging.upload(b.stream, p, data))
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, b.err
}

// Precision implements [tensor.Memory].
func (b *Backend) Precision(t *tensor.Tensor, dt tensor.DType) {
	m := mem("precision", t)
	if dt != tensor.F32 && dt != tensor.BF16 && dt != tensor.FP8 {
		panic(fmt.Sprintf("gpu: precision: %s; must be f32, bf16 or fp8", dt))
	}
	if err := b.HasPrecision(dt); err != nil {
		b.fail(fmt.Errorf("gpu: precision: %w", err))
		return
	}
	b.drop(m)
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
		b.release("free", m.ptr)
		delete(b.live, m)
	}
	*m = memory{dead: true}
}

// View implements [tensor.Memory].
func (b *Backend) View(t *tensor.Tensor, offset int, shape ...int) *tensor.Tensor {
	n, m := checkShape("view", t.DType, shape), mem("view", t)
	if offset < 0 || offset+n > t.Len() || offset%t.DType.Block() != 0 {
		panic(fmt.Sprintf("gpu: view: %v at %d of a tensor %v", shape, offset, t.Shape))
	}
	v := &memory{ptr: m.ptr + uint64(t.DType.Bytes(offset)), frozen: m.frozen, half: m.half, eight: m.eight, of: m.root()}
	if t.DType == tensor.I32 {
		v.host = m.host[offset : offset+n : offset+n]
	}
	return &tensor.Tensor{DType: t.DType, Shape: slices.Clone(shape), Mem: v}
}

// bytesOf shows numbers as bytes.
func bytesOf[E any](s []E) []byte {
	var e E
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(e)))
}

func (b *Backend) upload(op string, dst uint64, src []byte) {
	if b.err == nil && b.counts == nil && len(src) > 0 {
		b.check(op, b.stream.Upload(dst, unsafe.Pointer(unsafe.SliceData(src)), len(src)))
	}
}

func (b *Backend) download(op string, dst []byte, src uint64) {
	if b.err == nil && b.counts == nil && len(dst) > 0 {
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
	d := output("upload", dst)
	checkLen("upload", dst.Len(), len(src))
	b.upload("upload", d, bytesOf(src))
}

// UploadInts implements [tensor.Memory].
func (b *Backend) UploadInts(dst *tensor.Tensor, src []int32) {
	m := wantType("upload", dst, tensor.I32)
	writable("upload", m)
	checkLen("upload", dst.Len(), len(src))
	b.upload("upload", m.ptr, bytesOf(src))
	copy(m.host, src)
}

// UploadBytes implements [tensor.Memory].
func (b *Backend) UploadBytes(dst *tensor.Tensor, src []byte) {
	m := wantType("upload", dst, tensor.U8)
	writable("upload", m)
	checkLen("upload", dst.Len(), len(src))
	b.upload("upload", m.ptr, src)
}

// Download implements [tensor.Memory].
func (b *Backend) Download(dst []float32, src *tensor.Tensor) {
	s := input("download", src)
	checkLen("download", len(dst), src.Len())
	b.download("download", bytesOf(dst), s)
}

// DownloadInts implements [tensor.Memory].
func (b *Backend) DownloadInts(dst []int32, src *tensor.Tensor) {
	m := wantType("download", src, tensor.I32)
	checkLen("download", len(dst), src.Len())
	b.download("download", bytesOf(dst), m.ptr)
	if b.err == nil {
		copy(m.host, dst)
	}
}

// DownloadBytes implements [tensor.Memory].
func (b *Backend) DownloadBytes(dst []byte, src *tensor.Tensor) {
	m := wantType("download", src, tensor.U8)
	checkLen("download", len(dst), src.Len())
	b.download("download", dst, m.ptr)
}

// Zero implements [tensor.Memory].
func (b *Backend) Zero(t *tensor.Tensor) {
	m := mem("zero", t)
	writable("zero", m)
	if b.err != nil {
		return
	}
	b.clear(m.ptr, t.DType.Bytes(t.Len()))
	clear(m.host)
}

// Copy implements [tensor.Memory].
func (b *Backend) Copy(dst, src *tensor.Tensor) {
	d, s := mem("copy", dst), mem("copy", src)
	writable("copy", d)
	if dst.DType != src.DType || dst.Len() != src.Len() {
		panic(fmt.Sprintf("gpu: copy: %s %v from %s %v", dst.DType, dst.Shape, src.DType, src.Shape))
	}
	if n := dst.DType.Bytes(dst.Len()); b.err == nil && n > 0 && d.ptr != s.ptr {
		if b.counts == nil {
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
	scratchEight           // the first operand of a product in 8 bits
	scratchTurned          // codes of a weight, transposed
	scratchSlots
)

// scratch returns at least that many bytes, which lie at the same place while
// nobody asks for more.
func (b *Backend) scratch(slot, bytes int) uint64 {
	s := &b.scratches[slot]
	if b.err != nil || bytes <= s.bytes && s.ptr != 0 {
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
	if b.err != nil || c.ptr != 0 && slices.Equal(c.last, v) {
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

// staging copies large data to the device through two pinned buffers: one is
// filled, by several goroutines, while the other is on its way. Data from a
// mapped file is so read, copied and sent at the same time.
type staging struct {
	buf  [2][]byte
	sent [2]cux.Event
}

// stagingBytes is the size of a buffer; smaller data goes without.
const stagingBytes = 16 << 20

func (s *staging) upload(to *cux.Stream, dst uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if len(data) < 1<<20 {
		return to.Upload(dst, unsafe.Pointer(unsafe.SliceData(data)), len(data))
	}
	for i := range s.buf {
		if s.buf[i] != nil {
			continue
		}
		buf, err := to.Pinned(stagingBytes)
		if err != nil {
			return err
		}
		if s.sent[i], err = to.NewEvent(); err != nil {
			return err
		}
		s.buf[i] = buf
	}
	for i := 0; len(data) > 0; i = 1 - i {
		n := min(len(data), stagingBytes)
		if err := s.sent[i].Wait(); err != nil {
			return err
		}
		copyParallel(s.buf[i][:n], data[:n])
		if err := to.Upload(dst, unsafe.Pointer(&s.buf[i][0]), n); err != nil {
			return err
		}
		if err := to.Record(s.sent[i]); err != nil {
			return err
		}
		data, dst = data[n:], dst+uint64(n)
	}
	return nil
}

// copyParallel copies with several goroutines: one core does not fill the bus.
func copyParallel(dst, src []byte) {
	const part = 2 << 20
	var wg sync.WaitGroup
	for lo := 0; lo < len(src); lo += part {
		hi := min(len(src), lo+part)
		wg.Go(func() { copy(dst[lo:hi], src[lo:hi]) })
	}
	wg.Wait()
}

func (s *staging) close(on *cux.Stream) {
	for i := range s.buf {
		if s.buf[i] != nil {
			s.sent[i].Close()
			on.FreePinned(s.buf[i])
		}
	}
	*s = staging{}
}
