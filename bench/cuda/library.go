//go:build cuda

package main

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"pipe/gpu/dl"
	"pipe/tensor"
	"pipe/tensor/quant"
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
			l.vendor(lt, x, dl.NT, dl.BF16, result)
			l.vendor(lt, x, dl.NN, dl.BF16, result)
		}
	}
}

func (l *lab) vendor(lt *dl.CublasLt, x linear, order dl.Order, numbers, result dl.Type) {
	in, out, way := x.in, x.out, "NT"
	if order == dl.NN {
		in, out, way = x.out, x.in, "NN"
	}
	kind, size := "", 2
	if numbers == dl.E4M3 {
		kind, size = "fp8 ", 1
	}
	name := fmt.Sprintf("gemm %s %s%s %dx%dx%d", way, kind, x.name, l.tokens, out, in)
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
				l.spread(p, n, numbers)
				return uintptr(p)
			}
		}
		m := dl.Matmul{Alpha: 1}
		m.Order, m.M, m.N, m.K, m.Type, m.Result, m.Workspace = order, l.tokens, out, in, numbers, result, 32<<20
		m.LDA, m.LDB, m.LDC = in, in, out
		if order == dl.NN {
			m.LDB = out
		}
		a, b := several(l, size*l.tokens*in, matrix(size*l.tokens*in)), several(l, size*in*out, matrix(size*in*out))
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

// spread fills n bytes of the device with normal numbers in bfloat16 or 8 bits.
func (l *lab) spread(p uint64, n int, numbers dl.Type) {
	const first = 8 << 20
	if len(l.host[tensor.BF16]) < first {
		l.host[tensor.BF16] = make([]byte, first)
		l.filler.fill(l.host[tensor.BF16], tensor.BF16)
	}
	from := l.host[tensor.BF16]
	if numbers == dl.E4M3 {
		from = make([]byte, first)
		for i := range from {
			from[i] = quant.ToE4M3(l.filler.elements[i%len(l.filler.elements)] / deviation * 64)
		}
	}
	done := min(n, first)
	l.stream.Upload(p, unsafe.Pointer(&from[0]), done)
	for done < n {
		part := min(done, n-done)
		l.stream.Copy(p+uint64(done), p, part)
		done += part
	}
}
