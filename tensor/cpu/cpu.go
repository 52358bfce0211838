// Package cpu is the reference backend: every operation of
// [tensor.Backend] on the processor, in float32.
//
// # How it works
//
// Operations run at once, so a call has finished when it returns; Sync only
// reports the first failure. Long operations are cut into jobs that the
// caller and a few persistent workers take in turn. A job writes elements
// that no other job writes, and the order of every sum is fixed by the shapes
// alone: results do not depend on the number of threads.
//
// The inner loops are the fields of one table, kernels. It is filled with
// portable Go, or, on amd64 processors that have them, with assembly made by
// the generator in folder gen: AVX2 and FMA, AVX-512 for the products, and its
// bfloat16 instructions for products of that precision. What rounds differently
// has another name. PIPE_CPU in the environment is the most that is used:
// generic (the portable table), avx2 or avx512.
//
// # Weights
//
// Matrix products read panels of 16 or 32 columns. Panels of a frozen weight
// (one made by Load) are kept once they are made while all kept panels together
// stay within panelCache bytes; otherwise a few megabytes of panels at a time
// are made from the stored weight, quantised or not, and used for all rows of
// the other operand. Products of at most smallM rows, as in decoding, read
// the stored rows directly, unless the weight's precision is bfloat16.
package cpu

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"pipe/tensor"
)

// panelCache bounds the memory of kept weight panels: a model of 190 million
// weights keeps all of them in bfloat16, in both orientations.
const panelCache = 768 << 20

// ErrClosed is what Sync and Alloc return after Close.
var ErrClosed = errors.New("cpu: the backend is closed")

// A Backend runs on the processor. It is used by one goroutine at a time.
type Backend struct {
	k       *kernels
	pool    *pool
	work    []scratch // one per thread
	shared  scratch   // of the operation in progress
	op      operation
	err     error // the first failure
	kept    int   // bytes of kept panels
	rotate  rotation
	maps    *momentMaps // of AdamW8bit, once it has run
	maxKept int
	pages   map[*memory][][]byte // large memory, by its owner
}

var _ tensor.Backend = (*Backend)(nil)

// New returns a backend that runs on the given number of threads; 0 stands
// for GOMAXPROCS. Close stops its workers.
func New(threads int) *Backend {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return newBackend(threads, choose(os.Getenv("PIPE_CPU")))
}

// limits are what PIPE_CPU may be, from the least to the most.
var limits = []string{"generic", "avx2", "avx512"}

// CheckEnvironment reports a value of PIPE_CPU that no backend knows. New takes
// such a one for no limit.
func CheckEnvironment() error {
	limit := os.Getenv("PIPE_CPU")
	if limit == "" || slices.Contains(limits, limit) {
		return nil
	}
	return fmt.Errorf("PIPE_CPU=%s in the environment: use %s, or unset it", limit, strings.Join(limits, ", "))
}

// choose returns the fastest kernels up to limit.
func choose(limit string) *kernels {
	if limit != "generic" {
		if fast := accelerated(limit); fast != nil {
			return fast
		}
	}
	return portable()
}

func newBackend(threads int, k *kernels) *Backend {
	return &Backend{k: k, pool: newPool(threads), work: make([]scratch, threads), maxKept: panelCache}
}

// Name is "cpu:fma", "cpu:fma+few" or "cpu:fma+few+pairs" (see accelerated), or
// "cpu:generic:" and the architecture: compilers fuse multiplications and
// additions on some architectures and not on others.
func (b *Backend) Name() string { return "cpu:" + b.k.name }

// Sync returns the first failure.
func (b *Backend) Sync() error { return b.err }

// Close stops the workers. Every later operation does nothing, and Sync
// returns ErrClosed.
func (b *Backend) Close() error {
	if b.pool != nil {
		b.pool.close()
	}
	for m := range b.pages {
		b.release(m)
	}
	*b = Backend{k: b.k, err: ErrClosed}
	return nil
}

// fail records the first failure.
func (b *Backend) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}
