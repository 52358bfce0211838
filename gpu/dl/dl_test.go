//go:build cuda

package dl

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

// fake builds the library of testdata and returns its path.
func fake(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "libcublasLt.so.13")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", path, "testdata/cublaslt.c", "-lm").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return path
}

// bf16 rounds to the nearest bfloat16, ties to even.
func bf16(f float32) uint16 {
	bits := math.Float32bits(f)
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// A matrix of a test, by rows; the pointer is to the numbers as the library reads them.
type matrix struct {
	f      []float32
	h      []uint16
	stride int
	at     uintptr
}

func newMatrix(r *rand.Rand, rows, columns, stride int, of Type, pin *runtime.Pinner) matrix {
	m := matrix{f: make([]float32, rows*stride+1), stride: stride}
	for i := range m.f {
		m.f[i] = float32(r.IntN(17)-8) / 4
	}
	if of == BF16 {
		m.h = make([]uint16, len(m.f))
		for i, f := range m.f {
			m.h[i] = bf16(f)
		}
		pin.Pin(&m.h[0])
		m.at = uintptr(unsafe.Pointer(&m.h[0]))
		return m
	}
	pin.Pin(&m.f[0])
	m.at = uintptr(unsafe.Pointer(&m.f[0]))
	return m
}

// value is what stands in row i, column j.
func (m matrix) value(i, j int) float32 {
	if m.h != nil {
		return math.Float32frombits(uint32(m.h[i*m.stride+j]) << 16)
	}
	return m.f[i*m.stride+j]
}

func TestMatmul(t *testing.T) {
	t.Setenv("PIPE_CUBLASLT", fake(t))
	lt, err := OpenCublasLt(0)
	if err != nil {
		t.Fatal(err)
	}
	defer lt.Close()
	if got := lt.Version(); got != "13.2.3" {
		t.Errorf("version %s", got)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, order := range []Order{NT, NN, TN} {
		for _, types := range [][2]Type{{BF16, F32}, {BF16, BF16}, {F32, F32}} {
			for _, s := range [][3]int{{1, 1, 1}, {5, 3, 7}, {4, 9, 2}, {16, 8, 24}} {
				t.Run(fmt.Sprint(order, types, s), func(t *testing.T) { matmul(t, lt, r, order, types, s) })
			}
		}
	}
}

func matmul(t *testing.T, lt *CublasLt, r *rand.Rand, order Order, types [2]Type, s [3]int) {
	var pin runtime.Pinner
	defer pin.Unpin()
	M, N, K := s[0], s[1], s[2]
	rowsA, columnsA, rowsB, columnsB := M, K, K, N
	if order == TN {
		rowsA, columnsA = K, M
	}
	if order == NT {
		rowsB, columnsB = N, K
	}
	a := newMatrix(r, rowsA, columnsA, columnsA+2, types[0], &pin)
	b := newMatrix(r, rowsB, columnsB, columnsB+1, types[0], &pin)
	c := newMatrix(r, M, N, N+3, types[1], &pin)
	work := make([]byte, 64)
	pin.Pin(&work[0])
	want := make([]float64, M*N)
	for i := range M {
		for j := range N {
			sum := 0.0
			for k := range K {
				x, y := a.value(i%rowsA, k%columnsA), b.value(k%rowsB, j%columnsB)
				if order == TN {
					x = a.value(k, i)
				}
				if order == NT {
					y = b.value(j, k)
				}
				sum += float64(x) * float64(y)
			}
			want[i*N+j] = 0.5*sum + 2*float64(c.value(i, j))
		}
	}
	beyond := c.value(0, N)
	m := &Matmul{
		Shape: Shape{Order: order, M: M, N: N, K: K, LDA: a.stride, LDB: b.stride, LDC: c.stride, Type: types[0], Result: types[1], Workspace: 64},
		A:     a.at, B: b.at, C: c.at, Alpha: 0.5, Beta: 2, WorkspaceAt: uintptr(unsafe.Pointer(&work[0])),
	}
	if err := lt.Matmul(0, m); err != nil {
		t.Fatal(err)
	}
	for i := range M {
		for j := range N {
			got, exact := float64(c.value(i, j)), want[i*N+j]
			if !(math.Abs(got-exact) <= math.Abs(exact)/256) {
				t.Fatalf("row %d, column %d: got %v, want %v", i, j, got, exact)
			}
		}
	}
	if c.value(0, N) != beyond {
		t.Error("it wrote between the rows")
	}
	if n := testing.AllocsPerRun(10, func() { lt.Matmul(0, m) }); n != 0 {
		t.Errorf("%v allocations in a product", n)
	}
}

func TestMatmulSaysWhatIsNotSupported(t *testing.T) {
	t.Setenv("PIPE_CUBLASLT", fake(t))
	lt, err := OpenCublasLt(0)
	if err != nil {
		t.Fatal(err)
	}
	defer lt.Close()
	m := &Matmul{Shape: Shape{Order: NN, M: 1, N: 13, K: 1, LDA: 1, LDB: 13, LDC: 13, Type: F32, Result: F32}, Alpha: 1}
	if err := lt.Supports(m); err == nil || !strings.Contains(err.Error(), "cublasLtMatmulAlgoGetHeuristic: not supported (15)") {
		t.Error(err)
	}
	m.N, m.LDC, m.M = 7, 6, 2
	if err := lt.Matmul(0, m); err == nil || !strings.Contains(err.Error(), "cublasLtMatrixLayoutCreate: invalid value (7)") {
		t.Error(err)
	}
}

// TestLibrariesAreLookedFor has the search's order and its messages.
func TestLibrariesAreLookedFor(t *testing.T) {
	path := fake(t)
	for _, v := range []string{"PIPE_CUBLASLT", "VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"} {
		t.Setenv(v, "")
	}
	site := t.TempDir()
	dir := filepath.Join(site, "nvidia/cu13/lib")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(dir, "libcublasLt.so.12")
	if err := os.Rename(path, there); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LD_LIBRARY_PATH", site)
	list := strings.Join(candidates("PIPE_CUBLASLT", []string{"libcublasLt.so.13", "libcublasLt.so.12"}), "\n") + "\n"
	if i, j := strings.Index(list, "libcublasLt.so.13\n"), strings.Index(list, "\nlibcublasLt.so.12\n"+there+"\n"); i != 0 || j < 0 {
		t.Errorf("candidates:\n%s", list)
	}
	t.Setenv("PIPE_CUBLASLT", there)
	if version, at, err := CublasLtVersion(); err != nil || version != "13.2.3" || at != there {
		t.Error(version, at, err)
	}
	t.Setenv("FAKE_CUBLASLT_FAILS", "1")
	var notFound *ErrNotFound
	if _, err := OpenCublasLt(0); !errors.As(err, &notFound) || !strings.Contains(err.Error(), there+": cublasLtCreate: invalid value (1)") {
		t.Error(err)
	}
	t.Setenv("PIPE_CUBLASLT", filepath.Join(site, "none.so"))
	if _, err := OpenCublasLt(0); !errors.As(err, &notFound) || !strings.Contains(err.Error(), "none.so: cannot open") {
		t.Error(err)
	}
	t.Setenv("PIPE_NCCL", there)
	if _, err := OpenNCCL(); !errors.As(err, &notFound) || !strings.Contains(err.Error(), "it has no ncclGetVersion") {
		t.Error(err)
	}
}
