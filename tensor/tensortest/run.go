package tensortest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
)

// Run runs the conformance suite on backends from open, one per test. open
// need not close them.
func Run(t *testing.T, open func(t testing.TB) tensor.Backend) {
	for _, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			t.Cleanup(func() { b.Close() })
			s := &suite{T: t, b: b, rng: rand.New(rand.NewPCG(20261124, 1)), open: open}
			c.run(s)
			if err := b.Sync(); err != nil && !s.failed {
				t.Errorf("sync: %v", err)
			}
		})
	}
}

// conformance is the suite.
var conformance = []struct {
	name string
	run  func(*suite)
}{
	{"memory", testMemory},
	{"views", testViews},
	{"load keeps types", testLoadTypes},
	{"memory of the machine", testHostMemory},
	{"matmul", testMatMul},
	{"matmul beta zero ignores garbage", testMatMulGarbage},
	{"matmul weights of every type", testMatMulTypes},
	{"matmul with an update and factors", testMatMulEpilogue},
	{"projections", testProject},
	{"gradient of projections", testProjectGrad},
	{"low rank gradient", testLowRankGrad},
	{"matmul in bfloat16", testPrecision},
	{"matmul in 8 bits", testFP8},
	{"what follows a product in 8 bits", testFP8Follows},
	{"products in 8 bits are those in bfloat16 elsewhere", testFP8Elsewhere},
	{"non-finite numbers in 8 bits", testFP8NonFinite},
	{"uniform rows", testUniform},
	{"weights that are lent", testLent},
	{"matmul repeats exactly", testMatMulRepeats},
	{"rows decoded together", testDecodeRows},
	{"prompts read together", testPrompts},
	{"vectors and rows", testVectors},
	{"bias gradient", testBias},
	{"dropout", testDropout},
	{"dora norm", testDoRA},
	{"dora norms together", testDoRANorms},
	{"dora gradient", testDoRAGrad},
	{"row squares of every type", testRowSquares},
	{"embed and gather", testRows},
	{"rmsnorm", testRMSNorm},
	{"rope", testRope},
	{"swiglu", testSwiGLU},
	{"attention", testAttention},
	{"attention gradient", testAttentionGrad},
	{"attention with shared keys", testSharedKeys},
	{"log prob", testLogProb},
	{"log prob gradient", testLogProbGrad},
	{"routes to experts", testRoute},
	{"rows to experts and back", testDispatch},
	{"products of experts", testExpertMatMul},
	{"experts' rows together", testExpertsTogether},
	{"experts in bfloat16", testHalfExperts},
	{"wrong routings", testBadRoutings},
	{"zero of many", testZeroAll},
	{"largest logits", testLargest},
	{"penalties of logits", testPenalize},
	{"weights of logits", testWeigh},
	{"sum of squares", testSumSquares},
	{"sum of squares of many", testSumSquaresOfMany},
	{"adamw", testAdamW},
	{"adamw of many", testAdamWOfMany},
	{"adamw of 8 bits", testAdamW8bit},
	{"adamw of 8 bits at the edges", testAdamW8bitEdges},
	{"adamw of 8 bits against bitsandbytes", testBitsAndBytes},
	{"empty inputs", testEmpty},
	{"aliasing", testAliasing},
	{"non-finite numbers", testNonFinite},
	{"non-finite logits and scores", testNonFiniteHeads},
	{"negative zero", testNegativeZero},
	{"wrong shapes panic", testPanics},
	{"bad indices fail", testBadIndices},
	{"use after close", testClosed},
	{"activations in bfloat16", testHalf},
	{"fixtures of pytorch", testFixtures},
}

// A suite is one running test.
type suite struct {
	*testing.T
	b      tensor.Backend
	rng    *rand.Rand
	open   func(t testing.TB) tensor.Backend
	failed bool // Sync is expected to fail
}

// reseed makes the numbers that follow those of a seed.
func (s *suite) reseed(seed uint64) { s.rng = rand.New(rand.NewPCG(seed, 1)) }

// normal returns n float32 numbers, as float64.
func (s *suite) normal(n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(float32(s.rng.NormFloat64()))
	}
	return x
}

func (s *suite) alloc(dt tensor.DType, shape ...int) *tensor.Tensor {
	s.Helper()
	t, err := s.b.Alloc(dt, shape...)
	if err != nil {
		s.Fatal(err)
	}
	return t
}

// put returns a tensor that holds x.
func (s *suite) put(x []float64, shape ...int) *tensor.Tensor {
	s.Helper()
	t := s.alloc(tensor.F32, shape...)
	s.b.Upload(t, float32s(x))
	return t
}

func (s *suite) putInts(x []int32) *tensor.Tensor {
	s.Helper()
	t := s.alloc(tensor.I32, len(x))
	s.b.UploadInts(t, x)
	return t
}

// garbage returns a tensor of NaN, for results that are set.
func (s *suite) garbage(shape ...int) *tensor.Tensor {
	s.Helper()
	t := s.alloc(tensor.F32, shape...)
	x := make([]float32, t.Len())
	for i := range x {
		x[i] = float32(math.NaN())
	}
	s.b.Upload(t, x)
	return t
}

func (s *suite) get(t *tensor.Tensor) []float32 {
	x := make([]float32, t.Len())
	s.b.Download(x, t)
	return x
}

func (s *suite) getInts(t *tensor.Tensor) []int32 {
	x := make([]int32, t.Len())
	s.b.DownloadInts(x, t)
	return x
}

// check compares a tensor with the reference.
func (s *suite) check(name string, got *tensor.Tensor, want []float64, tol Tolerance) {
	s.Helper()
	Close(s.T, name, s.get(got), want, For(s.b, tol))
}

// load returns a frozen tensor.
func (s *suite) load(dt tensor.DType, data []byte, shape ...int) *tensor.Tensor {
	s.Helper()
	t, err := s.b.Load(dt, data, shape...)
	if err != nil {
		s.Fatal(err)
	}
	return t
}

func float32s(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

func float64s(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func bytesOf(x []float32) []byte {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// same reports an error unless the bits agree.
func (s *suite) same(name string, got, want []float32) {
	s.Helper()
	if !slices.EqualFunc(got, want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
		s.Errorf("%s: bits differ: got %v, want %v", name, clip(got), clip(want))
	}
}

func clip(x []float32) []float32 { return x[:min(len(x), 8)] }
