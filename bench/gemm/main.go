// Command gemm times the matrix products of a 135M Llama (forward, weights
// frozen) against OpenBLAS and torch, in turn, and against the processor's peak:
//
//	go run ./bench/gemm -python python3
//
// It needs a Python with numpy and torch. A round is some tenths of a second of
// each; it prints GFLOP/s, medians of the rounds, and the median of the rounds'
// ratios. The peak is that of fused multiplications and additions in float32,
// measured on all threads in each round.
package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/quant"
)

//go:embed peer.py
var peer []byte

var shapes = [][3]int{{512, 1536, 576}, {512, 576, 1536}, {512, 576, 576}, {2048, 1536, 576}, {512, 49152, 576}, {8, 1536, 576}}

func main() {
	python := flag.String("python", "python3", "a Python with numpy and torch")
	rounds := flag.Int("rounds", 5, "rounds")
	threads := flag.Int("threads", 2, "threads of each")
	flag.Parse()
	if err := run(*python, *rounds, *threads); err != nil {
		fmt.Fprintln(os.Stderr, "gemm:", err)
		os.Exit(1)
	}
}

func run(python string, rounds, threads int) error {
	dir, err := os.MkdirTemp("", "gemm")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "peer.py")
	if err := os.WriteFile(script, peer, 0o600); err != nil {
		return err
	}
	cmd := exec.Command(python, script, strconv.Itoa(threads))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer in.Close()
	lines := json.NewDecoder(bufio.NewReader(out))
	var hello struct{ Ready string }
	if err := lines.Decode(&hello); err != nil {
		return fmt.Errorf("the peer did not start: %w", err)
	}
	b := cpu.New(threads)
	defer b.Close()
	fmt.Printf("%s, %s, %d threads; GFLOP/s, medians of %d rounds\n", b.Name(), hello.Ready, threads, rounds)
	fmt.Println("     M      N     K    peak |    f32 openblas  ratio  torch  ratio  of peak |   bf16  torch  ratio   q4_1 as bf16")
	for _, z := range shapes {
		w, err := newWeights(b, z)
		if err != nil {
			return err
		}
		var r results
		for range rounds {
			if _, err := fmt.Fprintln(in, z[0], z[1], z[2]); err != nil {
				return err
			}
			var p struct {
				OpenBLAS  float64
				Torch     float64
				TorchBF16 float64 `json:"torch_bf16"`
			}
			if err := lines.Decode(&p); err != nil {
				return fmt.Errorf("the peer ended: %w", err)
			}
			r.add(peak(threads), w.rate(w.f32), p.OpenBLAS, p.Torch, w.rate(w.bf16), p.TorchBF16, w.rate(w.q4))
		}
		r.print(z)
		w.free()
	}
	return b.Sync()
}

// results are columns of GFLOP/s, a row a round.
type results [7][]float64

func (r *results) add(v ...float64) {
	for i, x := range v {
		r[i] = append(r[i], x)
	}
}

func (r *results) print(z [3]int) {
	m := func(i int) float64 { return median(r[i]) }
	ratio := func(i, j int) float64 {
		var v []float64
		for n := range r[i] {
			v = append(v, r[i][n]/r[j][n])
		}
		return median(v)
	}
	fmt.Printf("%6d %6d %5d  %6.0f | %6.0f   %6.0f  %5.2f %6.0f  %5.2f    %5.2f | %6.0f %6.0f  %5.2f   %6.0f\n", z[0], z[1], z[2],
		m(0), m(1), m(2), ratio(1, 2), m(3), ratio(1, 3), ratio(1, 0), m(4), m(5), ratio(4, 5), m(6))
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// weights are the operands of one shape.
type weights struct {
	b             *cpu.Backend
	shape         [3]int
	x, y          *tensor.Tensor
	f32, bf16, q4 *tensor.Tensor
}

func newWeights(b *cpu.Backend, z [3]int) (w *weights, err error) {
	w = &weights{b: b, shape: z}
	values := make([]float32, z[1]*z[2])
	for i := range values {
		values[i] = float32(i%251)/251 - 0.5
	}
	load := func(dt tensor.DType) *tensor.Tensor {
		data := make([]byte, dt.Bytes(len(values)))
		quant.Quantize(data, dt, values)
		var t *tensor.Tensor
		if err == nil {
			t, err = b.Load(dt, data, z[1], z[2])
		}
		return t
	}
	w.f32, w.bf16, w.q4 = load(tensor.F32), load(tensor.BF16), load(tensor.Q4_1)
	if err != nil {
		return nil, err
	}
	b.Precision(w.bf16, tensor.BF16)
	b.Precision(w.q4, tensor.BF16)
	if w.x, err = b.Alloc(tensor.F32, z[0], z[2]); err != nil {
		return nil, err
	}
	b.Upload(w.x, slices.Repeat(values[:z[2]], z[0]))
	w.y, err = b.Alloc(tensor.F32, z[0], z[1])
	return w, err
}

func (w *weights) free() {
	for _, t := range []*tensor.Tensor{w.x, w.y, w.f32, w.bf16, w.q4} {
		w.b.Free(t)
	}
}

// rate returns the GFLOP/s of products with t.
func (w *weights) rate(t *tensor.Tensor) float64 {
	multiply := func() { w.b.MatMul(w.y, w.x, t, tensor.MatMul{TransB: true, Alpha: 1}) }
	multiply()
	n, start := 0, time.Now()
	for time.Since(start) < 300*time.Millisecond {
		multiply()
		n++
	}
	return 2 * float64(w.shape[0]) * float64(w.shape[1]) * float64(w.shape[2]) * float64(n) / time.Since(start).Seconds() / 1e9
}

// peak returns the GFLOP/s of fused multiplications and additions alone.
func peak(threads int) float64 {
	var done sync.WaitGroup
	counts := make([]int, threads)
	start := time.Now()
	for t := range threads {
		done.Go(func() { counts[t] = fma(3e10 / threads) })
	}
	done.Wait()
	sum := 0
	for _, c := range counts {
		sum += c
	}
	return 2 * float64(sum) / time.Since(start).Seconds() / 1e9
}
