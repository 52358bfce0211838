//go:build cuda

package dl

/*
#cgo LDFLAGS: -lcuda
#cgo noescape lt_queue
#cgo nocallback lt_queue
#include "cublaslt.h"

// enter makes the context current on the thread that calls; none is the one that
// is current.
int cuCtxSetCurrent(void *ctx);
static int enter(void *ctx) { return ctx ? cuCtxSetCurrent(ctx) : 0; }

static const char *lt_status(const lt *l, int r) { return l->status(r); }
static size_t lt_version(const lt *l) { return l->version(); }
static void lt_close(const lt *l, void *ctx, void *handle) {
	enter(ctx);
	l->destroy(handle);
}
static int lt_open(const lt *l, void *ctx, void **handle) {
	int r = enter(ctx);
	return r ? -r : l->create(handle);
}
static int lt_plan_of(const lt *l, void *ctx, void *handle, const lt_shape *s, lt_plan *p, const char **step) {
	enter(ctx);
	return lt_make(l, handle, s, p, step);
}
static int lt_queue(const lt *l, void *ctx, void *handle, lt_plan *p, float alpha, uintptr_t a, uintptr_t b, float beta, uintptr_t c,
	uintptr_t scale_a, uintptr_t scale_b, uintptr_t workspace, uintptr_t stream) {
	int r = enter(ctx);
	if (r) return -r;
	if (scale_a) r = l->desc_set(p->desc, LT_DESC_A_SCALE, &scale_a, sizeof scale_a);
	if (!r && scale_b) r = l->desc_set(p->desc, LT_DESC_B_SCALE, &scale_b, sizeof scale_b);
	if (r) return r;
	return l->matmul(handle, p->desc, &alpha, (const void *)a, p->a, (const void *)b, p->b, &beta, (const void *)c, p->c, (void *)c, p->c,
		&p->algo, (void *)workspace, p->workspace, (void *)stream);
}
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// A Type is that of the numbers of a matrix.
type Type int32

// The types of numbers. E4M3 is for the two factors of an NT product only, on
// devices of compute capability 8.9 and newer.
const (
	F32  Type = C.LT_R_32F
	BF16 Type = C.LT_R_16BF
	E4M3 Type = C.LT_R_E4M3
)

// An Order says how the factors of a product lie. All matrices are by rows.
type Order int32

// The orders.
const (
	NT Order = iota // C[M,N] = A[M,K] B[N,K]ᵀ
	NN              // C[M,N] = A[M,K] B[K,N]
	TN              // C[M,N] = A[K,M]ᵀ B[K,N]
)

// A Shape is what the choice of an algorithm depends on. A product of one shape,
// aligned alike, always runs the same one.
type Shape struct {
	Order     Order
	M, N, K   int
	LDA, LDB  int // from one row to the next, in numbers
	LDC       int
	Type      Type // of A and B
	Result    Type // F32 or BF16
	Workspace int  // bytes that the algorithm may use at most
}

// A Matmul is C = Alpha·A·B + Beta·C. Pointers are to the device's memory; sums are
// formed in float32.
type Matmul struct {
	Shape
	A, B, C        uintptr
	Alpha, Beta    float32
	ScaleA, ScaleB uintptr // of E4M3: one float32 each, a factor of the matrix; 0 is none
	WorkspaceAt    uintptr // of Workspace bytes, 256-aligned; no two products that may run at once share one
}

// planKey is what a plan is kept by.
type planKey struct {
	Shape
	alignA, alignB, alignC uint8 // exponents of two
	scaled                 bool
}

// CublasLt computes products. It is used by one goroutine at a time.
type CublasLt struct {
	lib    library
	fns    C.lt
	ctx    unsafe.Pointer
	handle unsafe.Pointer
	plans  map[planKey]*C.lt_plan
}

// OpenCublasLt opens the library, versions 13 to 11 or the path in PIPE_CUBLASLT,
// for a context of the driver (a CUcontext; 0 is the one that is current). The error is an [ErrNotFound].
func OpenCublasLt(ctx uintptr) (*CublasLt, error) {
	c := &CublasLt{ctx: *(*unsafe.Pointer)(unsafe.Pointer(&ctx)), plans: map[planKey]*C.lt_plan{}}
	if err := openCublasLt(c.start); err != nil {
		return nil, err
	}
	return c, nil
}

// CublasLtVersion tells the version of the library and what it was found as,
// without starting it.
func CublasLtVersion() (version, path string, err error) {
	var c CublasLt
	if err := openCublasLt(c.bind); err != nil {
		return "", "", err
	}
	return c.Version(), c.Path(), nil
}

func openCublasLt(use func(library) error) error {
	return open("cublasLt", "PIPE_CUBLASLT", []string{"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"}, use)
}

// bind finds the functions.
func (c *CublasLt) bind(l library) error {
	fns := (*[unsafe.Sizeof(c.fns) / unsafe.Sizeof(uintptr(0))]unsafe.Pointer)(unsafe.Pointer(&c.fns))
	c.lib = l
	return c.lib.symbols(fns[:], "cublasLtGetVersion", "cublasLtGetStatusString", "cublasLtCreate", "cublasLtDestroy",
		"cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy", "cublasLtMatmulDescSetAttribute",
		"cublasLtMatrixLayoutCreate", "cublasLtMatrixLayoutDestroy",
		"cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceDestroy", "cublasLtMatmulPreferenceSetAttribute",
		"cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul")
}

// start makes a handle.
func (c *CublasLt) start(l library) error {
	if err := c.bind(l); err != nil {
		return err
	}
	if r := C.lt_open(&c.fns, c.ctx, &c.handle); r != 0 {
		return c.failed("Create", r)
	}
	return nil
}

// failed is the error of a status.
func (c *CublasLt) failed(step string, r C.int) error {
	if r < 0 {
		return fmt.Errorf("cublasLt%s: the driver's context: CUDA error %d", step, -r)
	}
	return fmt.Errorf("cublasLt%s: %s (%d)", step, C.GoString(C.lt_status(&c.fns, r)), r)
}

// Version is the library's, such as "13.1.0".
func (c *CublasLt) Version() string {
	v := int(C.lt_version(&c.fns))
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// Path is the file that the library is in.
func (c *CublasLt) Path() string { return c.lib.path }

// Close gives back what the library holds. The library stays loaded.
func (c *CublasLt) Close() {
	if c.handle == nil {
		return
	}
	for _, p := range c.plans {
		C.lt_unmake(&c.fns, p)
	}
	C.lt_close(&c.fns, c.ctx, c.handle)
	c.handle, c.plans = nil, nil
}

// Supports reports why there is no algorithm for a product, nil if there is one. It
// makes the plan that Matmul then finds.
func (c *CublasLt) Supports(m *Matmul) error {
	_, err := c.plan(m)
	return err
}

// Matmul queues a product on a stream (a CUstream). Nothing is allocated but for the
// first product of a shape.
func (c *CublasLt) Matmul(stream uintptr, m *Matmul) error {
	if m.M == 0 || m.N == 0 {
		return nil
	}
	p, err := c.plan(m)
	if err != nil {
		return err
	}
	// By columns, a matrix is its transpose: Cᵀ = Bᵀ Aᵀ. So B comes first.
	r := C.lt_queue(&c.fns, c.ctx, c.handle, p, C.float(m.Alpha), C.uintptr_t(m.B), C.uintptr_t(m.A), C.float(m.Beta), C.uintptr_t(m.C),
		C.uintptr_t(m.ScaleB), C.uintptr_t(m.ScaleA), C.uintptr_t(m.WorkspaceAt), C.uintptr_t(stream))
	if r != 0 {
		return c.failed("Matmul", r)
	}
	return nil
}

// plan finds or makes the plan of a product.
func (c *CublasLt) plan(m *Matmul) (*C.lt_plan, error) {
	key := planKey{m.Shape, alignment(m.A), alignment(m.B), alignment(m.C), m.ScaleA != 0 || m.ScaleB != 0}
	if p := c.plans[key]; p != nil {
		return p, nil
	}
	s := C.lt_shape{
		transa: C.LT_OP_N, transb: C.LT_OP_N,
		type_a: C.int(m.Type), type_b: C.int(m.Type), type_c: C.int(m.Result),
		rows_a: C.uint64_t(m.N), columns_a: C.uint64_t(m.K), stride_a: C.int64_t(m.LDB),
		rows_b: C.uint64_t(m.K), columns_b: C.uint64_t(m.M), stride_b: C.int64_t(m.LDA),
		rows_c: C.uint64_t(m.N), columns_c: C.uint64_t(m.M), stride_c: C.int64_t(m.LDC),
		alignment_a: 1 << key.alignB, alignment_b: 1 << key.alignA, alignment_c: 1 << key.alignC,
		workspace: C.uint64_t(m.Workspace),
	}
	switch m.Order {
	case NT:
		s.transa, s.rows_a, s.columns_a = C.LT_OP_T, s.columns_a, s.rows_a
	case TN:
		s.transb, s.rows_b, s.columns_b = C.LT_OP_T, s.columns_b, s.rows_b
	}
	p := new(C.lt_plan)
	var step *C.char
	if r := C.lt_plan_of(&c.fns, c.ctx, c.handle, &s, p, &step); r != 0 {
		return nil, fmt.Errorf("no product %+v: %w", m.Shape, c.failed(C.GoString(step), r))
	}
	c.plans[key] = p
	return p, nil
}

// alignment is the exponent of the largest power of two, up to 256, that divides p.
func alignment(p uintptr) uint8 {
	var n uint8
	for ; n < 8 && p&(1<<n) == 0; n++ {
	}
	return n
}
