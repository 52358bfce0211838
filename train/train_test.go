package train_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/train"
)

const tolerance = 1e-5

func backend(t testing.TB) tensor.Backend {
	b := cpu.New(2)
	t.Cleanup(func() { b.Close() })
	return b
}

var pairs = []train.Preference{
	{Prompt: []int32{1, 17, 5}, Chosen: []int32{42, 9, 2}, Rejected: []int32{9, 30, 30, 2}},
	{Prompt: []int32{1, 3, 50, 28}, Chosen: []int32{11, 2}, Rejected: []int32{8, 2}},
	{Prompt: []int32{1, 8}, Chosen: []int32{21, 2, 45, 7, 2}, Rejected: []int32{33, 2}},
	{Prompt: []int32{1, 40, 41}, Chosen: []int32{6, 7, 2}, Rejected: []int32{7, 6, 5, 2}},
}

// student is the tiny model with the adapter of that name, or "full". Adapters
// named nf4 are over a base in 4 bits.
func student(t *testing.T, name string) *model.Decoder {
	t.Helper()
	base := "plain"
	if strings.HasPrefix(name, "nf4_") {
		base = "nf4_double"
	}
	d := modeltest.Decoder(t, backend(t), base, name == "full")
	if name != "full" {
		if _, err := adapter.Load(d, filepath.Join(modeltest.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// rows returns the fixture's documents as three rows of one document.
func rows() []model.Batch { return modeltest.Batch().Split() }

// series returns the values of one series.
func series(r *train.Result, name string) (v []float32) {
	for _, p := range r.Series {
		if p.Series == name {
			v = append(v, float32(p.Value))
		}
	}
	return v
}

// curve compares loss, gradient norm and learning rate of each step.
func curve(t *testing.T, name string, r *train.Result, fix *modeltest.Fixture, key string) {
	t.Helper()
	want := fix.Floats(key)
	for i, s := range []string{"loss", "grad_norm", "learning_rate"} {
		var col []float32
		for j := i; j < len(want); j += 3 {
			col = append(col, want[j])
		}
		modeltest.Close(t, name+" "+s, series(r, s), col, 1e-4) // errors grow over ten steps
	}
}

// TestLikelihoodCurve compares ten optimizer steps with transformers and PEFT:
// full-parameter training, LoRA and DoRA, and both over a base in NF4 with
// nested scales (QLoRA) in float32, with clipping, decay, warm-up and a cosine.
func TestLikelihoodCurve(t *testing.T) {
	fix := modeltest.Load(t, "curves.safetensors")
	for name, key := range map[string]string{"full": "full", "lora": "sft_lora.curve", "dora": "sft_dora.curve",
		"nf4_lora": "sft_nf4_lora.curve", "nf4_dora": "sft_nf4_dora.curve"} {
		for _, batch := range []int{1, 3} { // one by one or packed: the same gradient
			o := train.NewOptions()
			o.LR, o.Beta2, o.WeightDecay, o.MaxGradNorm = 0.02, 0.99, 0.1, 0.5
			o.Warmup, o.MaxSteps, o.BatchSize, o.GradAccum = 2, 10, batch, 3/batch
			d := student(t, name)
			r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows()}, o)
			if err != nil {
				t.Fatal(err)
			}
			curve(t, name, r, fix, key)
		}
	}
}

// inOrder makes the steps of a task take its examples in turn, as the fixture
// does, whatever order the loop chose.
type inOrder struct {
	*train.Preferences
	size, at int
}

func (o *inOrder) Step(p *model.Pass, micro, window []int) ([]train.Mean, error) {
	var w []int
	for i := range o.size {
		w = append(w, (o.at+i)%o.Len())
	}
	o.at += o.size
	return o.Preferences.Step(p, w, w)
}

// TestPreferences compares loss and gradients of every loss with TRL's, and
// ten optimizer steps.
func TestPreferences(t *testing.T) {
	fix := modeltest.Load(t, "curves.safetensors")
	base := student(t, "full")
	ref, err := train.SumLogProbs(context.Background(), base, pairs, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var flat []float32
	for _, r := range ref {
		flat = append(flat, float32(r.Chosen), float32(r.Rejected))
	}
	modeltest.Close(t, "reference", flat, fix.Floats("reference"), tolerance)
	for _, loss := range train.Losses() {
		t.Run(loss, func(t *testing.T) {
			d := student(t, "dora")
			task := &train.Preferences{Model: d, Pairs: pairs, Loss: loss, Beta: 0.1, Ref: ref}
			p := model.NewPass(d.Backend())
			p.Train = true
			means, err := task.Step(p, []int{0, 1, 2, 3}, []int{0, 1, 2, 3})
			if err != nil {
				t.Fatal(err)
			}
			modeltest.Close(t, "loss", []float32{float32(means[0].Value())}, fix.Floats(loss+".loss"), tolerance)
			n := 0
			d.Params(func(path string, x *model.Param) {
				if x.Grad == nil || !strings.Contains(path, "layers.0") {
					return
				}
				key := loss + ".grad." + path
				if strings.HasSuffix(path, "lora_magnitude_vector") {
					key += ".weight"
				}
				modeltest.Close(t, key, modeltest.Download(d.Backend(), x.Grad), fix.Floats(key), tolerance)
				n++
			})
			if n != 21 {
				t.Errorf("%d gradients compared, want 21", n)
			}
			d = student(t, "dora")
			o := train.NewOptions()
			o.LR, o.Beta2, o.Schedule, o.Warmup, o.MaxSteps, o.BatchSize = 0.02, 0.99, "linear", 2, 10, 2
			r, err := train.Run(context.Background(), d, &inOrder{&train.Preferences{Model: d, Pairs: pairs, Loss: loss, Beta: 0.1, Ref: ref}, 2, 0}, o)
			if err != nil {
				t.Fatal(err)
			}
			curve(t, loss, r, fix, loss+".curve")
		})
	}
}

// options of a short run with checkpoints.
func options(dir string) train.Options {
	o := train.NewOptions()
	o.Epochs, o.BatchSize, o.GradAccum, o.LR, o.Seed = 5, 1, 2, 0.01, 3
	o.Dir, o.ID, o.Every, o.Keep = dir, "run", 3, 2
	return o
}

// bits returns every trained parameter.
func bits(d *model.Decoder) []byte {
	var b bytes.Buffer
	d.Params(func(_ string, p *model.Param) {
		if p.Grad != nil {
			for _, v := range modeltest.Download(d.Backend(), p.Value) {
				u := math.Float32bits(v)
				b.Write([]byte{byte(u), byte(u >> 8), byte(u >> 16), byte(u >> 24)})
			}
		}
	})
	return b.Bytes()
}

var errKilled = errors.New("killed")

// dying is a task whose process dies at a micro-batch.
type dying struct {
	train.Task
	left int
}

func (d *dying) Step(p *model.Pass, micro, window []int) ([]train.Mean, error) {
	if d.left--; d.left < 0 {
		return nil, errKilled
	}
	return d.Task.Step(p, micro, window)
}

// TestResume kills a run at every micro-batch, and while a checkpoint is being
// written: the run that goes on ends with the same bytes and the same series.
func TestResume(t *testing.T) {
	whole := func(dir string, kill int) (*train.Result, []byte, error) {
		d := student(t, "dora")
		o := options(dir)
		o.Setup = func() (map[string][]float64, error) { return map[string][]float64{"before": {1.0 / 3}}, nil }
		var task train.Task = &train.Likelihood{Model: d, Rows: rows()}
		if kill >= 0 {
			task = &dying{task, kill}
		}
		r, err := train.Run(context.Background(), d, task, o)
		return r, bits(d), err
	}
	want, wantBits, err := whole("", -1)
	if err != nil {
		t.Fatal(err)
	}
	if want.Steps != 10 || want.Before["before"][0] != 1.0/3 {
		t.Fatalf("%d steps, before %v", want.Steps, want.Before)
	}
	for kill := range 15 {
		dir := t.TempDir()
		if _, _, err := whole(dir, kill); !errors.Is(err, errKilled) {
			t.Fatalf("killed at %d: %v", kill, err)
		}
		half := filepath.Join(dir, "tmp-checkpoint-00000009") // a torn write
		if err := os.MkdirAll(half, 0o777); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(half, "state.json"), []byte("{"), 0o666)
		got, gotBits, err := whole(dir, -1)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) || got.Before["before"][0] != 1.0/3 {
			t.Errorf("killed at micro-batch %d, gone on from step %d: the result differs", kill, got.Resumed)
		}
		if want := kill / 6 * 3; kill < 12 && got.Resumed > kill {
			t.Errorf("gone on from step %d, at most %d expected", got.Resumed, want)
		}
		left, _ := filepath.Glob(filepath.Join(dir, "*"))
		if len(left) > 2 {
			t.Errorf("%d checkpoints left, want at most 2: %q", len(left), left)
		}
	}
}

// TestCancel: a cancelled run leaves a checkpoint of the step it was at.
func TestCancel(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	o := options(dir)
	o.Every = 100
	o.Report = func(done, _ int, _ []train.Point) {
		if done == 4 {
			cancel()
		}
	}
	d := student(t, "lora")
	if _, err := train.Run(ctx, d, &train.Likelihood{Model: d, Rows: rows()}, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	o.Report = nil
	d = student(t, "lora")
	r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows()}, o)
	if err != nil || r.Resumed != 4 {
		t.Fatalf("gone on from step %d, want 4; %v", r.Resumed, err)
	}
	o.ID = "other"
	if _, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows()}, o); err == nil || !strings.Contains(err.Error(), "belongs to another run") {
		t.Errorf("another run's checkpoint: %v", err)
	}
}

// broken is a task whose gradients or loss are not finite.
type broken struct {
	train.Likelihood
	loss bool
	from int
}

func (b *broken) Step(p *model.Pass, micro, window []int) ([]train.Mean, error) {
	m, err := b.Likelihood.Step(p, micro, window)
	if b.from--; b.from < 0 {
		if b.loss {
			m[0].Sum = math.NaN()
		}
		b.Model.Params(func(_ string, x *model.Param) {
			if x.Grad != nil {
				v := make([]float32, x.Grad.Len())
				v[0] = float32(math.Inf(1))
				p.Upload(x.Grad, v)
			}
		})
	}
	return m, err
}

func TestNotFinite(t *testing.T) {
	d := student(t, "lora")
	o := options("")
	_, err := train.Run(context.Background(), d, &broken{train.Likelihood{Model: d, Rows: rows()}, true, 3}, o)
	if err == nil || !strings.Contains(err.Error(), "step 3 of 10: the loss is NaN: training has diverged") {
		t.Errorf("NaN loss: %v", err)
	}
	d = student(t, "lora")
	_, err = train.Run(context.Background(), d, &broken{train.Likelihood{Model: d, Rows: rows()}, true, 0}, o)
	if err == nil || !strings.Contains(err.Error(), "step 1 of 10: the loss is NaN before anything was learned") {
		t.Errorf("a model that is not numbers: %v", err)
	}
	d = student(t, "lora")
	o.MaxSteps, o.Warmup = 30, 0
	before := bits(d)
	_, err = train.Run(context.Background(), d, &broken{train.Likelihood{Model: d, Rows: rows()}, false, 0}, o)
	if err == nil || !strings.Contains(err.Error(), "10 steps in a row had no finite gradient") {
		t.Errorf("infinite gradients: %v", err)
	}
	if !bytes.Equal(bits(d), before) {
		t.Error("a step without a finite gradient changed the parameters")
	}
}

func TestRunErrors(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "plain", false)
	for want, change := range map[string]func(o *train.Options) *train.Likelihood{
		"nothing to train":     func(*train.Options) *train.Likelihood { return &train.Likelihood{Model: d, Rows: rows()} },
		"no training examples": func(*train.Options) *train.Likelihood { return &train.Likelihood{Model: d} },
		`schedule is "cubic"`: func(o *train.Options) *train.Likelihood {
			o.Schedule = "cubic"
			return &train.Likelihood{Model: d, Rows: rows()}
		},
	} {
		o := train.NewOptions()
		if _, err := train.Run(context.Background(), d, change(&o), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestCrossEntropy(t *testing.T) {
	d := student(t, "dora")
	e, err := train.CrossEntropy(context.Background(), d, rows(), 8)
	if err != nil {
		t.Fatal(err)
	}
	modeltest.Close(t, "loss", []float32{float32(e.Value)}, modeltest.Load(t, "dora.safetensors").Floats("loss"), tolerance)
	if e.N != 3 || !(e.Stderr > 0) {
		t.Errorf("%+v", e)
	}
}
