//go:build cuda

package main

import (
	"fmt"
	"math"
	"os"
	"runtime"

	"pipe/gpu/dl"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// eights measures products in 8 bits, with what rounds the activations, beside those in
// bfloat16, and cublasLt's of codes that are there, with one scale a matrix.
func (l *lab) eights() {
	linears := l.linears()[:4]
	for _, x := range linears {
		for _, back := range []bool{false, true} {
			l.gemm("bf16 ", x, tensor.BF16, tensor.BF16, back)
			l.gemm("fp8 ", x, tensor.BF16, tensor.FP8, back)
		}
	}
	for _, back := range []bool{false, true} {
		l.gemm("fp8 of nf4 ", linears[2], tensor.NF4, tensor.FP8, back)
	}
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
	for _, x := range linears {
		l.vendor(lt, x, dl.NT, dl.E4M3, dl.BF16)
	}
}

// round8 rounds a row to 8 bits as products take it.
func round8(x []float32) (scale float32) {
	var most float32
	for _, v := range x {
		most = max(most, float32(math.Abs(float64(v))))
	}
	scale = quant.ScaleE4M3(most)
	for i, v := range x {
		x[i] = quant.RoundE4M3(v/scale) * scale
	}
	return scale
}

// checkEight is checkProduct for products in 8 bits.
func (l *lab) checkEight(y, a *tensor.Tensor, dt tensor.DType, x linear, back bool) string {
	rows := []int{0, y.Rows() / 3, y.Rows() - 1}
	var us [][]float32
	for _, r := range rows {
		us = append(us, l.row(a, r))
		if !back {
			round8(us[len(us)-1])
		}
	}
	step := max(1, y.Cols()/7)
	some := make([][]float32, 0, 8) // of the weight, as columns of y need them
	scales, row, n := make([]float32, x.out), make([]float32, x.in), dt.Bytes(x.in)
	if back {
		for c := 0; c < y.Cols(); c += step {
			some = append(some, make([]float32, x.out))
		}
	}
	for j := 0; j < x.out; j++ {
		if !back && j%step != 0 {
			continue
		}
		quant.Dequantize(row, dt, l.host[dt][j*n:(j+1)*n])
		scales[j] = round8(row)
		if !back {
			some = append(some, append([]float32(nil), row...))
			continue
		}
		for i := range some {
			some[i][j] = row[i*step]
		}
	}
	for _, u := range us {
		if !back {
			break
		}
		for j := range u {
			u[j] *= scales[j]
		}
		round8(u)
		for j := range u {
			u[j] /= scales[j]
		}
	}
	worst := 0.0
	for i, r := range rows {
		got := l.row(y, r)
		for c, w := range some {
			sum, norm := 0.0, 0.0
			for k, v := range us[i] {
				t := float64(v) * float64(w[k])
				sum, norm = sum+t, norm+t*t
			}
			if e := math.Abs(float64(got[c*step])-sum) / math.Sqrt(norm); !(e <= worst) { // NaN too
				worst = e
			}
		}
	}
	return fmt.Sprintf("error %.1e", worst)
}
