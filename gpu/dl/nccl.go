//go:build cuda

package dl

/*
#include <stdint.h>
#include "nccl.h"

int cuCtxSetCurrent(void *ctx);
static int enter(void *ctx) { return ctx ? cuCtxSetCurrent(ctx) : 0; }

static const char *nccl_error(const nccl *l, int r) { return l->error(r); }
static int nccl_version(const nccl *l, int *v) { return l->version(v); }
static int nccl_new_id(const nccl *l, nccl_id *id) { return l->id(id); }
static int nccl_join(const nccl *l, void *ctx, void **comm, int ranks, const nccl_id *id, int rank) {
	int r = enter(ctx);
	return r ? -r : l->init(comm, ranks, *id, rank);
}
static int nccl_all_reduce(const nccl *l, void *ctx, void *comm, uintptr_t at, size_t n, int type, int op, uintptr_t stream) {
	int r = enter(ctx);
	return r ? -r : l->all_reduce((const void *)at, (void *)at, n, type, op, comm, (void *)stream);
}
static int nccl_leave(const nccl *l, void *ctx, void *comm) {
	int r = enter(ctx);
	return r ? -r : l->destroy(comm);
}
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// NCCL forms sums over several devices.
type NCCL struct {
	lib library
	fns C.nccl
}

// OpenNCCL opens the library, version 2 or the path in PIPE_NCCL. The error is an
// [ErrNotFound].
func OpenNCCL() (*NCCL, error) {
	n := &NCCL{}
	if err := open("NCCL", "PIPE_NCCL", []string{"libnccl.so.2"}, n.bind); err != nil {
		return nil, err
	}
	return n, nil
}

// bind finds the functions.
func (n *NCCL) bind(l library) error {
	fns := (*[unsafe.Sizeof(n.fns) / unsafe.Sizeof(uintptr(0))]unsafe.Pointer)(unsafe.Pointer(&n.fns))
	n.lib = l
	return n.lib.symbols(fns[:], "ncclGetVersion", "ncclGetErrorString", "ncclGetUniqueId", "ncclCommInitRank", "ncclAllReduce", "ncclCommDestroy")
}

// failed is the error of a result, nil if that is success.
func (n *NCCL) failed(step string, r C.int) error {
	switch {
	case r < 0:
		return fmt.Errorf("nccl%s: the driver's context: CUDA error %d", step, -r)
	case r > 0:
		return fmt.Errorf("nccl%s: %s (%d)", step, C.GoString(C.nccl_error(&n.fns, r)), r)
	}
	return nil
}

// Version is the library's, such as "2.27.3".
func (n *NCCL) Version() (string, error) {
	var v C.int
	err := n.failed("GetVersion", C.nccl_version(&n.fns, &v))
	if v < 10000 { // before 2.9
		return fmt.Sprintf("%d.%d.%d", v/1000, v/100%10, v%100), err
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100), err
}

// Path is the file that the library is in.
func (n *NCCL) Path() string { return n.lib.path }

// An ID names a group of devices. One of them makes it and hands it to the others.
type ID [unsafe.Sizeof(C.nccl_id{})]byte

// NewID makes the name of a new group.
func (n *NCCL) NewID() (ID, error) {
	var id C.nccl_id
	err := n.failed("GetUniqueId", C.nccl_new_id(&n.fns, &id))
	return *(*ID)(unsafe.Pointer(&id)), err
}

// A Group is the membership of one device in a group.
type Group struct {
	n         *NCCL
	ctx, comm unsafe.Pointer
}

// Join makes the device of a context (a CUcontext) member rank of a group of ranks.
// It returns when all have joined.
func (n *NCCL) Join(ctx uintptr, id ID, ranks, rank int) (*Group, error) {
	g := &Group{n: n, ctx: *(*unsafe.Pointer)(unsafe.Pointer(&ctx))}
	var comm unsafe.Pointer
	err := n.failed("CommInitRank", C.nccl_join(&n.fns, g.ctx, &comm, C.int(ranks), (*C.nccl_id)(unsafe.Pointer(&id)), C.int(rank)))
	if err != nil {
		return nil, err
	}
	g.comm = comm
	return g, nil
}

// AllReduce queues on a stream (a CUstream) that n numbers of type F32 or BF16
// become the sums over the group, or with mean their means. All members call it in
// the same order.
func (g *Group) AllReduce(stream, at uintptr, n int, of Type, mean bool) error {
	t, op := C.int(C.NCCL_F32), C.int(C.NCCL_SUM)
	if of == BF16 {
		t = C.NCCL_BF16
	}
	if mean {
		op = C.NCCL_AVG
	}
	return g.n.failed("AllReduce", C.nccl_all_reduce(&g.n.fns, g.ctx, g.comm, C.uintptr_t(at), C.size_t(n), t, op, C.uintptr_t(stream)))
}

// Leave ends the membership.
func (g *Group) Leave() error {
	return g.n.failed("CommDestroy", C.nccl_leave(&g.n.fns, g.ctx, g.comm))
}
