package cpu

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// memory is the storage of a tensor: f32 for F32, i32 for I32, raw for the
// rest.
type memory struct {
	f32    []float32
	i32    []int32
	raw    []byte
	frozen bool       // made by Load, or a view of that: never written
	keep   bool       // made by Load: panels may be kept
	half   bool       // products with it round to bfloat16,
	eight  bool       // and those of many rows to 8 bits
	rows   int        // of what Load made
	panels [4]*panels // kept: as stored, transposed, and the same in 8 bits
	scales []float32  // of its rows in 8 bits, once they are kept
	few    *stored    // arranged for few rows
	forget func()     // see Lent; nil: none
	dead   bool
	of     *memory // that a view shows
}

// Alloc implements [tensor.Memory].
func (b *Backend) Alloc(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	n := checkShape("alloc", dt, shape)
	if b.err != nil {
		return nil, b.err
	}
	m := &memory{}
	switch dt {
	case tensor.F32:
		m.f32 = b.zeros(m, n)
	case tensor.I32:
		m.i32 = make([]int32, n)
	default:
		m.raw = b.zeroBytes(m, dt.Bytes(n))
	}
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, nil
}

// aligned returns n zeros that begin a cache line.
func aligned(n int) []float32 {
	s := make([]float32, n+15)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(s)))%64) / 4
	return s[skip : skip+n : skip+n]
}

// Load implements [tensor.Memory]. It keeps data, unless that is of type F32
// or I32 and not aligned to its elements.
func (b *Backend) Load(dt tensor.DType, data []byte, shape ...int) (*tensor.Tensor, error) {
	n := checkShape("load", dt, shape)
	if len(data) != dt.Bytes(n) {
		panic(fmt.Sprintf("cpu: load: %d bytes for %s %v", len(data), dt, shape))
	}
	if b.err != nil {
		return nil, b.err
	}
	m := &memory{frozen: true, keep: true}
	if len(shape) > 0 {
		m.rows = shape[0]
	}
	switch dt {
	case tensor.F32:
		m.f32 = floats(data)
	case tensor.I32:
		m.i32 = make([]int32, n)
		for i := range m.i32 {
			m.i32[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
		}
	default:
		m.raw = data
	}
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: m}, nil
}

// Lent implements [tensor.Borrower].
func (b *Backend) Lent(t *tensor.Tensor, forget func()) { mem("lent", t).forget = forget }

// arranged is called when panels or few were made of m.
func (m *memory) arranged() {
	if m.forget != nil {
		m.forget()
	}
}

// floats reads little-endian data as float32, in place where the processor
// allows it.
func floats(data []byte) []float32 {
	p := unsafe.Pointer(unsafe.SliceData(data))
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 && uintptr(p)%4 == 0 {
		return unsafe.Slice((*float32)(p), len(data)/4)
	}
	f := aligned(len(data) / 4)
	quant.Dequantize(f, tensor.F32, data)
	return f
}

// Precision implements [tensor.Memory].
func (b *Backend) Precision(t *tensor.Tensor, dt tensor.DType) {
	m := mem("precision", t)
	checks.Precision(dt)
	b.drop(m)
	m.half, m.eight = dt != tensor.F32, dt == tensor.FP8
}

// drop gives up kept panels and scales.
func (b *Backend) drop(m *memory) {
	m.scales = nil
	for i, p := range m.panels {
		if p != nil {
			b.kept -= p.bytes()
		}
		m.panels[i] = nil
	}
}

// Free implements [tensor.Memory].
func (b *Backend) Free(t *tensor.Tensor) {
	m := mem("free", t)
	b.drop(m)
	b.release(m)
	b.op = operation{} // it may hold the last of m
	*m = memory{dead: true}
}

// View implements [tensor.Memory].
func (b *Backend) View(t *tensor.Tensor, offset int, shape ...int) *tensor.Tensor {
	m, n := mem("view", t), checks.View(t, offset, shape)
	v := &memory{frozen: m.frozen, half: m.half, eight: m.eight, of: cmp.Or(m.of, m)}
	switch t.DType {
	case tensor.F32:
		v.f32 = m.f32[offset : offset+n : offset+n]
	case tensor.I32:
		v.i32 = m.i32[offset : offset+n : offset+n]
	default:
		lo, hi := t.DType.Bytes(offset), t.DType.Bytes(offset+n)
		v.raw = m.raw[lo:hi:hi]
	}
	if slices.Equal(shape, t.Shape) {
		v.panels, v.rows = m.panels, m.rows
	}
	return &tensor.Tensor{DType: t.DType, Shape: slices.Clone(shape), Mem: v}
}

// Upload implements [tensor.Memory].
func (b *Backend) Upload(dst *tensor.Tensor, src []float32) {
	d := output("upload", dst)
	checkLen("upload", len(d), len(src))
	if b.err == nil {
		copy(d, src)
	}
}

// UploadInts implements [tensor.Memory].
func (b *Backend) UploadInts(dst *tensor.Tensor, src []int32) {
	d := ints("upload", dst)
	checkLen("upload", len(d), len(src))
	if b.err == nil {
		copy(d, src)
	}
}

// Download implements [tensor.Memory].
func (b *Backend) Download(dst []float32, src *tensor.Tensor) {
	s := input("download", src)
	checkLen("download", len(dst), len(s))
	if b.err == nil {
		b.split(len(s), 1024, 0.1, args{dst: dst, x: s}, func(a *args, lo, hi, _ int) { copy(a.dst[lo:hi], a.x[lo:hi]) })
	}
}

// DownloadInts implements [tensor.Memory].
func (b *Backend) DownloadInts(dst []int32, src *tensor.Tensor) {
	s := ints("download", src)
	checkLen("download", len(dst), len(s))
	if b.err == nil {
		copy(dst, s)
	}
}

// UploadBytes implements [tensor.Memory].
func (b *Backend) UploadBytes(dst *tensor.Tensor, src []byte) {
	m := wantType("upload", dst, tensor.U8)
	writable("upload", m)
	checkLen("upload", len(m.raw), len(src))
	if b.err == nil {
		copy(m.raw, src)
	}
}

// DownloadBytes implements [tensor.Memory].
func (b *Backend) DownloadBytes(dst []byte, src *tensor.Tensor) {
	m := wantType("download", src, tensor.U8)
	checkLen("download", len(dst), len(m.raw))
	if b.err == nil {
		copy(dst, m.raw)
	}
}

// Zero implements [tensor.Memory].
func (b *Backend) Zero(t *tensor.Tensor) {
	m := mem("zero", t)
	writable("zero", m)
	if b.err != nil {
		return
	}
	b.split(len(m.f32), 1024, 0.1, args{dst: m.f32}, func(a *args, lo, hi, _ int) { clear(a.dst[lo:hi]) })
	clear(m.i32)
	clear(m.raw)
}

// ZeroAll implements [tensor.Memory].
func (b *Backend) ZeroAll(ts []*tensor.Tensor) {
	for _, t := range ts {
		writable("zero", mem("zero", t))
	}
	for _, t := range ts {
		b.Zero(t)
	}
}

// Copy implements [tensor.Memory].
func (b *Backend) Copy(dst, src *tensor.Tensor) {
	d, s := mem("copy", dst), mem("copy", src)
	writable("copy", d)
	checks.Copy(dst, src)
	if b.err != nil {
		return
	}
	copy(d.f32, s.f32)
	copy(d.i32, s.i32)
	copy(d.raw, s.raw)
}
