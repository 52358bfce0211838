package train_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/disk"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/quant"
	"pipe/train"
)

// planned is a 21-million-parameter Llama: large beside what the Go runtime
// takes.
var planned = model.Config{VocabSize: 8192, Hidden: 512, Intermediate: 1408, Layers: 6, Heads: 8, KVHeads: 2, HeadDim: 64,
	MaxPositions: 1024, NormEps: 1e-5, InitRange: 0.02, Tied: true, Rope: model.Rope{Theta: 10000}}

// A job is one configuration whose memory is planned and measured.
type job struct {
	dtype     tensor.DType // of the base
	tune      string       // "lora", "dora", "full"; "": generate
	rank      int
	seq, rows int // tokens of a row, rows of a micro-batch
	recompute bool
	eight     bool
	half      bool // products in bfloat16
	experts   bool // Llama 4
	family    model.Family
}

// config is of the model.
func (j job) config() model.Config {
	c := planned
	c.Family = j.family
	if j.experts {
		yes := []bool{true, true, true, true}
		c.Layers, c.Intermediate = 4, 352
		c.Llama4 = &model.Llama4{Experts: 8, Top: 2, Dense: 1024, MoE: []bool{true, false, true, true}, Rope: yes, Chunked: yes,
			Chunk: 128, QKNorm: true, Tuned: true, FloorScale: 64, AttnScale: 0.1}
	}
	return c
}

// file is the checkpoint in a directory.
func (j job) file(dir string) string {
	return filepath.Join(dir, fmt.Sprint(j.dtype, j.experts, j.family))
}

func (j job) String() string {
	return fmt.Sprintf("%s/%s/rank %d/%d×%d tokens/recompute %t/8-bit %t/bf16 %t/experts %t/%s", j.dtype, cmp.Or(j.tune, "generate"), j.rank, j.rows, j.seq, j.recompute, j.eight, j.half, j.experts, j.family)
}

var planJobs = []job{
	{dtype: tensor.F32, tune: "lora", rank: 16, rows: 1, seq: 192},
	{dtype: tensor.F32, tune: "dora", rank: 16, rows: 2, seq: 192},
	{dtype: tensor.BF16, tune: "dora", rank: 16, rows: 1, seq: 384},
	{dtype: tensor.BF16, tune: "dora", rank: 16, rows: 1, seq: 384, recompute: true},
	{dtype: tensor.BF16, tune: "lora", rank: 64, rows: 2, seq: 192, recompute: true},
	{dtype: tensor.Q8_0, tune: "dora", rank: 16, rows: 1, seq: 192},
	{dtype: tensor.Q8_0, tune: "lora", rank: 16, rows: 2, seq: 384, recompute: true},
	{dtype: tensor.Q8_0, tune: "lora", rank: 256, rows: 1, seq: 192, eight: true},
	{dtype: tensor.F32, tune: "full", rows: 1, seq: 192},
	{dtype: tensor.BF16, tune: "full", rows: 1, seq: 384, recompute: true},
	{dtype: tensor.BF16, tune: "full", rows: 2, seq: 192, eight: true},
	{dtype: tensor.F32, rows: 8, seq: 384},
	{dtype: tensor.BF16, rows: 16, seq: 768},
	{dtype: tensor.Q8_0, rows: 4, seq: 192},
	{dtype: tensor.BF16, tune: "dora", rank: 16, rows: 1, seq: 384, half: true},
	{dtype: tensor.BF16, tune: "dora", rank: 16, rows: 1, seq: 768, half: true},
	{dtype: tensor.F32, tune: "full", rows: 1, seq: 192, half: true},
	{dtype: tensor.Q8_0, tune: "lora", rank: 16, rows: 2, seq: 384, recompute: true, half: true},
	{dtype: tensor.Q8_0, rows: 8, seq: 384, half: true},
	{dtype: tensor.BF16, tune: "dora", rank: 16, rows: 1, seq: 384, experts: true},
	{dtype: tensor.F32, tune: "full", rows: 1, seq: 384, experts: true, recompute: true},
	{dtype: tensor.BF16, rows: 8, seq: 384, experts: true, half: true},
	{dtype: tensor.BF16, tune: "dora", rank: 16, rows: 1, seq: 384, family: model.Qwen3, half: true},
	{dtype: tensor.F32, tune: "full", rows: 1, seq: 192, family: model.Qwen3},
	{dtype: tensor.BF16, rows: 8, seq: 384, family: model.Qwen3, half: true},
}

// run does the work of j on b: a plan, or a real backend.
func (j job) run(b tensor.Backend, src model.Source) error { return j.of(b, j.config(), src) }

func (j job) of(b tensor.Backend, c model.Config, src model.Source) error {
	d, err := model.Load(b, c, src, j.tune == "full")
	if err != nil {
		return err
	}
	defer d.Close()
	if j.half {
		d.SetPrecision(tensor.BF16)
	}
	if j.tune == "" {
		return j.generate(d)
	}
	if j.tune != "full" {
		a := adapter.NewConfig()
		a.DoRA, a.Rank = j.tune == "dora", j.rank
		if _, err := adapter.Attach(d, a, 1); err != nil {
			return err
		}
	}
	var rows []model.Batch
	for i := range j.rows {
		var row model.Batch
		for k := range 2 {
			ids := make([]int32, j.seq/2)
			for n := range ids {
				ids[n] = int32((i*977 + k*331 + n*n*17) % planned.VocabSize)
			}
			row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
		}
		rows = append(rows, row)
	}
	o := train.NewOptions()
	o.BatchSize, o.MaxSteps, o.Recompute, o.EightBit, o.Warmup = j.rows, 1, j.recompute, j.eight, 0
	o.Check = func(p *model.Pass) error { return train.CheckPacking(p, d, rows[0]) }
	o.Setup = func() (map[string][]float64, error) {
		_, err := train.CrossEntropy(context.Background(), d, rows, 0)
		return nil, err
	}
	_, err = train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows}, o)
	return err
}

func (j job) generate(d *model.Decoder) error {
	var reqs []model.Request
	for range j.rows {
		ids := make([]int32, j.seq-8)
		for i := range ids {
			ids[i] = int32(i)
		}
		reqs = append(reqs, model.Request{Prompt: ids, MaxTokens: 8})
	}
	return d.Generate(context.Background(), reqs, model.GenerateOptions{Batch: j.rows}, func(int, model.Result) error { return nil })
}

// stored is a checkpoint in one mapped file: the tensors of planned in order of
// their names, each from a multiple of 64 on; matrices are of type dt.
type stored struct {
	model.Weights
	*disk.Mapping
}

func openStored(dir string, j job) (*stored, error) {
	dt := j.dtype
	m, err := disk.Map(j.file(dir))
	if err != nil {
		return nil, err
	}
	s, at := &stored{model.Weights{}, m}, 0
	src := model.Random(j.config(), 1)
	for _, name := range src.Names() {
		w, err := src.(model.Describer).Describe(name)
		if err != nil {
			return nil, err
		}
		w.DType = typeOf(w, dt)
		n := w.DType.Bytes(len(w.Data) / 4)
		w.Data = m.Data[at : at+n]
		s.Weights[name] = w
		at += (n + 63) &^ 63
	}
	return s, nil
}

// Forget implements model.Forgetter.
func (s *stored) Forget(name string) { s.Mapping.Forget(s.Weights[name].Data) }

// InPlace implements model.Forgetter.
func (s *stored) InPlace(string) bool { return s.Mapped() }

func typeOf(w model.Weight, dt tensor.DType) tensor.DType {
	if len(w.Shape) == 1 {
		return tensor.F32
	}
	return dt
}

// store writes the model for openStored.
func store(t *testing.T, dir string, j job) {
	t.Helper()
	path, dt, src := j.file(dir), j.dtype, model.Random(j.config(), 1)
	if _, err := os.Stat(path); err == nil {
		return
	}
	var out bytes.Buffer
	for _, name := range src.Names() {
		w, err := src.Weight(name)
		if err == nil {
			err = quant.Convert(&out, typeOf(w, dt), tensor.F32, w.Data, w.Shape[len(w.Shape)-1])
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Write(make([]byte, -out.Len()&63))
	}
	if err := os.WriteFile(path, out.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

// status returns a line of /proc/self/status in bytes.
func status(key string) (int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), key+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s", key)
}

const (
	measureJob = "PIPE_TEST_MEASURE_JOB"
	measureDir = "PIPE_TEST_MEASURE_DIR"
)

func TestMain(m *testing.M) {
	if i, err := strconv.Atoi(os.Getenv(measureJob)); err == nil {
		grown, err := measure(planJobs[i], os.Getenv(measureDir))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(grown)
		return
	}
	os.Exit(m.Run())
}

// warm does a little of j: code that was never run is not in memory, and does not
// belong to a plan.
func (j job) warm() error {
	c := j.config()
	c.Layers = 1
	if v := c.Llama4; v != nil {
		v.MoE, v.Rope, v.Chunked = v.MoE[:1], v.Rope[:1], v.Chunked[:1]
	}
	b := cpu.New(2)
	defer b.Close()
	j.rows, j.seq = 1, 32
	return j.of(b, c, model.Random(c, 1))
}

// measure does a job in this process and returns by how much its peak exceeds
// what it had before. Small garbage goes at once: the plan is of what is used.
func measure(j job, dir string) (int64, error) {
	debug.SetGCPercent(10)
	if err := j.warm(); err != nil {
		return 0, err
	}
	debug.FreeOSMemory()
	before, err := status("VmRSS")
	if err != nil {
		return 0, err
	}
	src, err := openStored(dir, j)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	b := cpu.New(2)
	defer b.Close()
	if err := j.run(b, src); err != nil {
		return 0, err
	}
	after, err := status("VmHWM")
	return after - before, err
}

// TestPlan runs each job in a process of its own and compares its peak with
// the plan.
func TestPlan(t *testing.T) {
	if testing.Short() {
		t.Skip("trains 22 models")
	}
	if _, err := status("VmHWM"); err != nil {
		t.Skip("this system does not tell the peak of a process")
	}
	dir := t.TempDir()
	for _, j := range planJobs {
		store(t, dir, j)
	}
	b := cpu.New(2)
	defer b.Close()
	for i, j := range planJobs {
		src, err := openStored(dir, j)
		if err != nil {
			t.Fatal(err)
		}
		p := b.Plan()
		if err := j.run(p, model.Described(src)); err != nil {
			t.Fatalf("%s: plan: %v", j, err)
		}
		src.Close()
		want := p.Peak()
		got, ratio := int64(0), math.Inf(1)
		// Garbage that was not collected in time only adds to a peak: the least
		// of a few is what the job needs.
		for try := 0; try < 3 && ratio > 1.04; try++ {
			got = peakOf(t, j, i, dir)
			ratio = min(ratio, float64(got)/float64(want.Bytes))
		}
		t.Logf("%-55s planned %6.1f MB, measured %6.1f, ratio %.3f %v", j, mb(want.Bytes), mb(got), ratio, parts(want))
		least := 0.95
		// A plan does not know how many tokens go to which expert: where few rows have
		// kernels, it counts the weights that these read too.
		if j.experts && strings.Contains(b.Name(), "+few") {
			least = 0.9
		}
		if !(ratio >= least && ratio <= 1.05) {
			t.Errorf("%s: measured %d bytes, planned %d", j, got, want.Bytes)
		}
	}
}

// peakOf measures a job in a process of its own.
func peakOf(t *testing.T, j job, i int, dir string) int64 {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(slices.Clone(os.Environ()), fmt.Sprintf("%s=%d", measureJob, i), measureDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", j, err)
	}
	got, err := strconv.ParseInt(string(out), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mb(n int64) float64 { return float64(n) / 1e6 }

func parts(u tensor.Usage) (s []string) {
	for _, p := range u.Parts {
		s = append(s, fmt.Sprintf("%s %.1f", p.Name, mb(p.Bytes)))
	}
	return s
}
