//go:build cuda

package main

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"pipe/gpu/dl"
	"pipe/tensor"
)

// library measures cublasLt at the shapes of gemms, where it is installed: what
// the vendor's own kernels make of them.
func (l *lab) library() {
	runtime.LockOSThread() // whose context is current
	defer runtime.UnlockOSThread()
	if _, _, err := l.stream.Memory(); err != nil {
		return
	}
	lt, err := dl.OpenCublasLt(0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer lt.Close()
	fmt.Fprintln(os.Stderr, "cublasLt", lt.Version(), lt.Path())
	for _, x := range l.linears() {
		for _, result := range []dl.Type{dl.BF16, dl.F32} {
			l.vendor(lt, x, dl.NT, result)
			l.vendor(lt, x, dl.NN, result)
		}
	}
}

func (l *lab) vendor(lt *dl.CublasLt, x linear, order dl.Order, result dl.Type) {
	in, out, way := x.in, x.out, "NT"
	if order == dl.NN {
		in, out, way = x.out, x.in, "NN"
	}
	name := fmt.Sprintf("gemm %s %s %dx%dx%d", way, x.name, l.tokens, out, in)
	if result == dl.F32 {
		name += " to f32"
	}
	var owned []uint64
	defer func() {
		for _, p := range owned {
			l.stream.Free(p)
		}
	}()
	l.measure("cublaslt", name, func() job {
		matrix := func(n int) func() uintptr {
			return func() uintptr {
				p := must(l.stream.Alloc(n))
				owned = append(owned, p)
				l.spread(p, n)
				return uintptr(p)
			}
		}
		m := dl.Matmul{Alpha: 1}
		m.Order, m.M, m.N, m.K, m.Type, m.Result, m.Workspace = order, l.tokens, out, in, dl.BF16, result, 32<<20
		m.LDA, m.LDB, m.LDC = in, in, out
		if order == dl.NN {
			m.LDB = out
		}
		a, b := several(l, 2*l.tokens*in, matrix(2*l.tokens*in)), several(l, 2*in*out, matrix(2*in*out))
		m.C, m.WorkspaceAt = matrix(4*l.tokens*out)(), matrix(m.Workspace)()
		if err := lt.Supports(&m); err != nil {
			panic(err)
		}
		return job{flops: 2 * float64(l.tokens) * float64(x.out) * float64(x.in), op: func(i int) {
			m.A, m.B = of(a, i), of(b, i)
			if err := lt.Matmul(l.stream.Handle(), &m); err != nil {
				panic(err)
			}
		}}
	})
}

// spread fills n bytes of the device with normal numbers in bfloat16.
func (l *lab) spread(p uint64, n int) {
	const first = 8 << 20
	if len(l.host[tensor.BF16]) < first {
		l.host[tensor.BF16] = make([]byte, first)
		l.filler.fill(l.host[tensor.BF16], tensor.BF16)
	}
	done := min(n, first)
	l.stream.Upload(p, unsafe.Pointer(&l.host[tensor.BF16][0]), done)
	for done < n {
		part := min(done, n-done)
		l.stream.Copy(p+uint64(done), p, part)
		done += part
	}
}
