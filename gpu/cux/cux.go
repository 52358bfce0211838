//go:build cuda

// Package cux has what gorgonia.org/cu lacks: launches with a packed argument,
// copies ordered on a stream, pinned memory, captured graphs, function
// attributes. It works on the same handles.
//
// Every call makes the stream's context current on the calling thread first, in
// the same trip through cgo: callers need not lock themselves to a thread.
package cux

/*
#cgo noescape cux_launch
#cgo noescape cux_tile_map
#cgo nocallback cux_tile_map
#cgo nocallback cux_launch
#cgo noescape cux_upload
#cgo nocallback cux_upload
#cgo noescape cux_download
#cgo nocallback cux_download
#include <cuda.h>
#include <pipe_cuda.h>
#include <stdint.h>
#include <string.h>

CUresult CUDAAPI cuFuncGetParamInfo(CUfunction, size_t, size_t *, size_t *); // since 12.4

static CUresult cux_launch(CUcontext ctx, CUstream s, CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, char *args) {
	CUresult r = cuCtxSetCurrent(ctx);
	if (r != CUDA_SUCCESS) return r;
	void *params[] = {args}; // not a buffer of parameters: a struct that is aligned to 64 bytes begins elsewhere in one
	return cuLaunchKernel(f, gx, gy, gz, threads, 1, 1, shared, s, params, NULL);
}
static CUresult cux_argument(CUcontext ctx, CUfunction f, size_t *size) {
	size_t offset;
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuFuncGetParamInfo(f, 0, &offset, size);
}
static CUresult cux_stream(CUcontext ctx, CUstream *s) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuStreamCreate(s, CU_STREAM_NON_BLOCKING);
}
static CUresult cux_stream_destroy(CUcontext ctx, CUstream s) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuStreamDestroy(s);
}
static CUresult cux_sync(CUcontext ctx, CUstream s) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuStreamSynchronize(s);
}
static CUresult cux_alloc(CUcontext ctx, CUdeviceptr *p, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemAlloc(p, n);
}
static CUresult cux_free(CUcontext ctx, CUdeviceptr p) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemFree(p);
}
static CUresult cux_upload(CUcontext ctx, CUstream s, CUdeviceptr dst, const char *src, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemcpyHtoDAsync(dst, src, n, s);
}
static CUresult cux_download(CUcontext ctx, CUstream s, char *dst, CUdeviceptr src, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	if (r == CUDA_SUCCESS) r = cuMemcpyDtoHAsync(dst, src, n, s);
	return r != CUDA_SUCCESS ? r : cuStreamSynchronize(s);
}
static CUresult cux_copy(CUcontext ctx, CUstream s, CUdeviceptr dst, CUdeviceptr src, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemcpyDtoDAsync(dst, src, n, s);
}
static CUresult cux_move(CUcontext ctx, CUstream s, CUdeviceptr dst, CUdeviceptr src, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemcpyAsync(dst, src, n, s);
}
static CUresult cux_clear(CUcontext ctx, CUstream s, CUdeviceptr p, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemsetD8Async(p, 0, n, s);
}
static CUresult cux_shared(CUcontext ctx, CUfunction f, int n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, n);
}
static CUresult cux_info(CUcontext ctx, size_t *unused, size_t *total) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemGetInfo(unused, total);
}
static CUresult cux_host_alloc(CUcontext ctx, void **p, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemAllocHost(p, n);
}
static CUresult cux_host_map(CUcontext ctx, void **p, CUdeviceptr *at, size_t n) {
	CUresult r = cuCtxSetCurrent(ctx);
	if (r == CUDA_SUCCESS) r = cuMemHostAlloc(p, n, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
	if (r != CUDA_SUCCESS) return r;
	r = cuMemHostGetDevicePointer(at, *p, 0);
	if (r != CUDA_SUCCESS) cuMemFreeHost(*p);
	return r;
}
static CUresult cux_host_free(CUcontext ctx, void *p) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuMemFreeHost(p);
}
static CUresult cux_event(CUcontext ctx, CUevent *e) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuEventCreate(e, CU_EVENT_DEFAULT);
}
static CUresult cux_event_destroy(CUcontext ctx, CUevent e) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuEventDestroy(e);
}
static CUresult cux_record(CUcontext ctx, CUstream s, CUevent e) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuEventRecord(e, s);
}
static CUresult cux_event_wait(CUcontext ctx, CUevent e) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuEventSynchronize(e);
}
static CUresult cux_elapsed(CUcontext ctx, float *ms, CUevent a, CUevent b) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuEventElapsedTime(ms, a, b);
}
static CUresult cux_capture(CUcontext ctx, CUstream s) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
}
static CUresult cux_end_capture(CUcontext ctx, CUstream s, CUgraphExec *e) {
	CUgraph g = NULL;
	CUresult r = cuCtxSetCurrent(ctx);
	if (r == CUDA_SUCCESS) r = cuStreamEndCapture(s, &g);
	if (r != CUDA_SUCCESS) return r;
	r = cuGraphInstantiateWithFlags(e, g, 0);
	cuGraphDestroy(g);
	return r;
}
static CUresult cux_graph_launch(CUcontext ctx, CUgraphExec e, CUstream s) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuGraphLaunch(e, s);
}
static CUresult cux_graph_destroy(CUcontext ctx, CUgraphExec e) {
	CUresult r = cuCtxSetCurrent(ctx);
	return r != CUDA_SUCCESS ? r : cuGraphExecDestroy(e);
}
static CUresult cux_tile_map(void *to, CUdeviceptr p, cuuint64_t rows, cuuint64_t cols, cuuint64_t stride, cuuint32_t box, int bytes) {
	CUtensorMap m;
	cuuint64_t dims[] = {cols, rows}, strides[] = {stride};
	cuuint32_t boxes[] = {128 / bytes, box}, steps[] = {1, 1};
	CUtensorMapDataType type = bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
	CUresult r = cuTensorMapEncodeTiled(&m, type, 2, (void *)p, dims, strides, boxes, steps,
		CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	if (r == CUDA_SUCCESS) memcpy(to, &m, sizeof m);
	return r;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
)

// An Error is a CUresult.
type Error int

// What callers tell apart.
const (
	ErrOutOfMemory Error = C.CUDA_ERROR_OUT_OF_MEMORY
	ErrNoDevice    Error = C.CUDA_ERROR_NO_DEVICE
)

// Error returns the driver's name of the error and what it says about it.
func (e Error) Error() string {
	var name, text *C.char
	if C.cuGetErrorName(C.CUresult(e), &name) != C.CUDA_SUCCESS || name == nil {
		return fmt.Sprintf("CUDA error %d", int(e))
	}
	if C.cuGetErrorString(C.CUresult(e), &text) != C.CUDA_SUCCESS || text == nil {
		return C.GoString(name)
	}
	return C.GoString(name) + ": " + C.GoString(text)
}

func result(r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return Error(r)
}

// Status starts the driver, if no call has yet, and returns why it could not be
// initialised; nil when it was. Before the first call of Status every other
// function of the driver fails.
func Status() error {
	r := C.pipe_cuda_status()
	if r < 0 {
		return errors.New(C.GoString(C.pipe_cuda_reason())) // it names the library
	}
	return result(C.CUresult(r))
}

// Bytes of the host go to C as char pointers: of an unsafe.Pointer cgo would look
// at the whole object, which may hold pointers beside them.

// A Stream is a queue of work in a context.
type Stream struct {
	ctx   C.CUcontext
	s     C.CUstream
	calls int
}

// Calls returns how often work was queued or waited for.
func (s *Stream) Calls() int { return s.calls }

// call counts a call and returns its error.
func (s *Stream) call(r C.CUresult) error {
	s.calls++
	return result(r)
}

// NewStream makes a stream that does not wait for the default stream.
func NewStream(ctx cu.CUContext) (*Stream, error) {
	s := &Stream{ctx: *(*C.CUcontext)(unsafe.Pointer(&ctx))}
	return s, result(C.cux_stream(s.ctx, &s.s))
}

// Beside makes another stream in the same context: what is queued on it is done
// at the same time.
func (s *Stream) Beside() (*Stream, error) {
	t := &Stream{ctx: s.ctx}
	return t, result(C.cux_stream(t.ctx, &t.s))
}

// Close destroys the stream once its work is done.
func (s *Stream) Close() error { return result(C.cux_stream_destroy(s.ctx, s.s)) }

// Handle is the CUstream, for libraries.
func (s *Stream) Handle() uintptr { return uintptr(unsafe.Pointer(s.s)) }

// Context is the CUcontext of the stream, for libraries.
func (s *Stream) Context() uintptr { return uintptr(unsafe.Pointer(s.ctx)) }

func function(f cu.Function) C.CUfunction { return *(*C.CUfunction)(unsafe.Pointer(&f)) }

// Argument returns the size in bytes of the only parameter of f, or 0 where the
// driver is too old to tell.
func (s *Stream) Argument(f cu.Function) (int, error) {
	var n C.size_t
	r := C.cux_argument(s.ctx, function(f), &n)
	if r == C.CUDA_ERROR_NOT_SUPPORTED {
		return 0, nil
	}
	return int(n), result(r)
}

// Launch queues a kernel whose only parameter is the struct at args, which is copied before Launch returns. shared is dynamic shared memory
// in bytes.
func (s *Stream) Launch(f cu.Function, x, y, z, threads, shared int, args unsafe.Pointer) error {
	return s.call(C.cux_launch(s.ctx, s.s, function(f), C.uint(x), C.uint(y), C.uint(z), C.uint(threads), C.uint(shared), (*C.char)(args)))
}

// AllowShared lets f use n bytes of dynamic shared memory: beyond 48 KiB a
// kernel must be allowed to.
func (s *Stream) AllowShared(f cu.Function, n int) error {
	return result(C.cux_shared(s.ctx, function(f), C.int(n)))
}

// A TileMap tells kernels of sm_90a of a matrix of bfloat16, or of bytes, and of boxes
// in it.
type TileMap [16]uint64

// Set describes rows of cols elements, which lie stride bytes apart from p on, and
// boxes of box rows by 64 columns. p and stride are multiples of 16.
func (m *TileMap) Set(p uint64, rows, cols, stride, box int) error {
	return m.set(p, rows, cols, stride, box, 2)
}

// SetBytes is Set for a matrix of bytes, and boxes of box rows by 128 columns.
func (m *TileMap) SetBytes(p uint64, rows, cols, stride, box int) error {
	return m.set(p, rows, cols, stride, box, 1)
}

func (m *TileMap) set(p uint64, rows, cols, stride, box, bytes int) error {
	return result(C.cux_tile_map(unsafe.Pointer(m), C.CUdeviceptr(p), C.cuuint64_t(rows), C.cuuint64_t(cols), C.cuuint64_t(stride), C.cuuint32_t(box), C.int(bytes)))
}

// Sync waits for all queued work.
func (s *Stream) Sync() error { return s.call(C.cux_sync(s.ctx, s.s)) }

// Alloc returns n bytes of device memory, aligned to 256 bytes, content undefined.
func (s *Stream) Alloc(n int) (uint64, error) {
	var p C.CUdeviceptr
	err := result(C.cux_alloc(s.ctx, &p, C.size_t(n)))
	return uint64(p), err
}

// Free frees what Alloc gave, once the device is done with all earlier work.
func (s *Stream) Free(p uint64) error { return result(C.cux_free(s.ctx, C.CUdeviceptr(p))) }

// Upload queues a copy of n bytes from the host. The device reads pinned memory when
// its turn comes; other memory has mostly been read when Upload returns, but not if
// the device reads any memory of the host itself.
func (s *Stream) Upload(dst uint64, src unsafe.Pointer, n int) error {
	return s.call(C.cux_upload(s.ctx, s.s, C.CUdeviceptr(dst), (*C.char)(src), C.size_t(n)))
}

// Download copies n bytes to the host when all earlier work is done, and waits
// for that.
func (s *Stream) Download(dst unsafe.Pointer, src uint64, n int) error {
	return s.call(C.cux_download(s.ctx, s.s, (*C.char)(dst), C.CUdeviceptr(src), C.size_t(n)))
}

// Copy queues a copy of n bytes on the device.
func (s *Stream) Copy(dst, src uint64, n int) error {
	return s.call(C.cux_copy(s.ctx, s.s, C.CUdeviceptr(dst), C.CUdeviceptr(src), C.size_t(n)))
}

// Move queues a copy of n bytes between the device and memory of [Stream.Mapped],
// or within either.
func (s *Stream) Move(dst, src uint64, n int) error {
	return result(C.cux_move(s.ctx, s.s, C.CUdeviceptr(dst), C.CUdeviceptr(src), C.size_t(n)))
}

// Clear queues setting n bytes to 0.
func (s *Stream) Clear(p uint64, n int) error {
	return s.call(C.cux_clear(s.ctx, s.s, C.CUdeviceptr(p), C.size_t(n)))
}

// Memory returns the bytes of device memory that are free, and all there are.
func (s *Stream) Memory() (free, total int64, err error) {
	var f, t C.size_t
	err = result(C.cux_info(s.ctx, &f, &t))
	return int64(f), int64(t), err
}

// Pinned returns n bytes of host memory that the device copies from and to
// without staging. FreePinned frees it.
func (s *Stream) Pinned(n int) ([]byte, error) {
	var p unsafe.Pointer
	if err := result(C.cux_host_alloc(s.ctx, &p, C.size_t(n))); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), n), nil
}

// Mapped returns n bytes of pinned memory, content undefined, and the address
// under which kernels read and write them over the bus. FreePinned frees it.
func (s *Stream) Mapped(n int) ([]byte, uint64, error) {
	var p unsafe.Pointer
	var at C.CUdeviceptr
	if err := result(C.cux_host_map(s.ctx, &p, &at, C.size_t(n))); err != nil {
		return nil, 0, err
	}
	return unsafe.Slice((*byte)(p), n), uint64(at), nil
}

// FreePinned frees what Pinned or Mapped gave. The device must be done with it.
func (s *Stream) FreePinned(b []byte) error {
	return result(C.cux_host_free(s.ctx, unsafe.Pointer(unsafe.SliceData(b))))
}

// An Event is a point in a stream.
type Event struct {
	ctx C.CUcontext
	e   C.CUevent
}

// NewEvent makes an event, which is not recorded yet.
func (s *Stream) NewEvent() (Event, error) {
	e := Event{ctx: s.ctx}
	err := result(C.cux_event(s.ctx, &e.e))
	return e, err
}

// Record puts the event after all work that is queued now.
func (s *Stream) Record(e Event) error { return result(C.cux_record(s.ctx, s.s, e.e)) }

// Wait waits until the event has been reached; at once if it was not recorded.
func (e Event) Wait() error { return result(C.cux_event_wait(e.ctx, e.e)) }

// Since returns the milliseconds from event a to e, both reached.
func (e Event) Since(a Event) (float32, error) {
	var ms C.float
	err := result(C.cux_elapsed(e.ctx, &ms, a.e, e.e))
	return float32(ms), err
}

// Close frees the event.
func (e Event) Close() error { return result(C.cux_event_destroy(e.ctx, e.e)) }

// A Graph is captured work that can be queued again at once.
type Graph struct {
	ctx C.CUcontext
	e   C.CUgraphExec
}

// Capture begins to record what is queued instead of running it. The calling
// goroutine must be locked to its thread until EndCapture.
func (s *Stream) Capture() error { return result(C.cux_capture(s.ctx, s.s)) }

// EndCapture returns what was queued since Capture.
func (s *Stream) EndCapture() (Graph, error) {
	g := Graph{ctx: s.ctx}
	err := result(C.cux_end_capture(s.ctx, s.s, &g.e))
	return g, err
}

// Replay queues the work of g.
func (s *Stream) Replay(g Graph) error { return s.call(C.cux_graph_launch(s.ctx, g.e, s.s)) }

// Close frees the graph.
func (g Graph) Close() error { return result(C.cux_graph_destroy(g.ctx, g.e)) }
