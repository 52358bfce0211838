package adapter_test

import (
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
)

const tolerance = 1e-5

func backend(t testing.TB) tensor.Backend {
	b := cpu.New(2)
	t.Cleanup(func() { b.Close() })
	return b
}

// run does one forward and backward pass over the fixture's documents.
func run(t *testing.T, d *model.Decoder, p *model.Pass) float32 {
	t.Helper()
	d.Params(func(_ string, x *model.Param) {
		if x.Grad != nil {
			p.Zero(x.Grad)
		}
	})
	s, err := d.LogProb(p, modeltest.Batch())
	if err != nil {
		t.Fatal(err)
	}
	loss, grad := 0.0, make([]float32, len(s.LogP))
	for i, lp := range s.LogP {
		loss -= float64(lp) / float64(len(grad))
		grad[i] = float32(-1 / float64(len(grad)))
	}
	if p.Train {
		if err := d.Backward(p, grad); err != nil {
			t.Fatal(err)
		}
	}
	return float32(loss)
}

// TestPEFT loads adapters that PEFT saved and compares loss, every gradient
// and merged weights with PEFT's. The last two are over a base in NF4 with
// nested scales, as bitsandbytes runs it in float32.
func TestPEFT(t *testing.T) {
	for name, base := range map[string]string{"lora": "plain", "dora": "plain", "nf4_lora": "nf4_double", "nf4_dora": "nf4_double"} {
		for _, recompute := range []bool{false, true} {
			b := backend(t)
			d, fix := modeltest.Decoder(t, b, base, false), modeltest.Load(t, name+".safetensors")
			s, err := adapter.Load(d, filepath.Join(modeltest.Dir(), name))
			if err != nil {
				t.Fatal(err)
			}
			p := model.NewPass(b)
			p.Train, p.Recompute = true, recompute
			if base == "plain" {
				_, src := modeltest.Checkpoint(t, base)
				merged(t, name+" before a pass", s.Merge(src), fix)
			}
			modeltest.Close(t, name+" loss", []float32{run(t, d, p)}, fix.Floats("loss"), tolerance)
			n := 0
			d.Params(func(path string, x *model.Param) {
				if x.Grad == nil {
					return
				}
				key := "grad." + path
				if strings.HasSuffix(path, "lora_magnitude_vector") {
					key += ".weight"
				}
				modeltest.Close(t, name+" "+key, modeltest.Download(b, x.Grad), fix.Floats(key), tolerance)
				n++
			})
			if want := map[string]int{"lora": 2 * 3 * 2, "dora": 2 * 7 * 3, "nf4_lora": 2 * 7 * 2, "nf4_dora": 2 * 7 * 3}[name]; n != want {
				t.Errorf("%s: %d trained tensors, want %d", name, n, want)
			}
			p.Close()
			if base == "plain" {
				_, src := modeltest.Checkpoint(t, base)
				merged(t, name, s.Merge(src), fix)
			}
		}
	}
}

func merged(t *testing.T, name string, m model.Source, fix *modeltest.Fixture) {
	t.Helper()
	n := 0
	for _, key := range fix.Names() {
		path, ok := strings.CutPrefix(key, "merged.")
		if !ok {
			continue
		}
		w, err := m.Weight(path)
		if err != nil {
			t.Fatal(err)
		}
		x, _ := modeltest.Reference{}.Load(w.DType, w.Data, w.Shape...)
		modeltest.Close(t, name+" "+key, modeltest.Download(modeltest.Reference{}, x), fix.Floats(key), tolerance)
		n++
	}
	if n != 7 {
		t.Errorf("%s: %d merged tensors compared, want 7", name, n)
	}
}

// TestFresh: a new adapter changes nothing, its magnitudes are PEFT's, and a
// Base pass never sees the adapter.
func TestFresh(t *testing.T) {
	b := backend(t)
	d := modeltest.Decoder(t, b, "plain", false)
	p := model.NewPass(b)
	defer p.Close()
	base := run(t, d, p)
	c := adapter.Config{DoRA: true, Rank: 4, Alpha: 6, RSLoRA: true, Targets: []string{"all-linear"}}
	if _, err := adapter.Attach(d, c, 7); err != nil {
		t.Fatal(err)
	}
	if got := run(t, d, p); got != base {
		t.Errorf("loss %v with a fresh adapter, %v without", got, base)
	}
	fix := modeltest.Load(t, "dora.safetensors")
	d.Params(func(path string, x *model.Param) {
		switch {
		case strings.HasSuffix(path, "lora_magnitude_vector"):
			modeltest.Close(t, path, modeltest.Download(b, x.Value), fix.Floats("fresh."+path+".weight"), tolerance)
		case strings.HasSuffix(path, "lora_A.weight"):
			bound, widest := 1/math.Sqrt(float64(x.Value.Cols())), 0.0
			for _, v := range modeltest.Download(b, x.Value) {
				widest = max(widest, math.Abs(float64(v)))
			}
			if !(widest <= bound && widest > bound/2) {
				t.Errorf("%s: largest element %v, bound %v", path, widest, bound)
			}
		case strings.HasSuffix(path, "lora_B.weight"):
			v := modeltest.Download(b, x.Value)
			for i := range v {
				v[i] = 0.3
			}
			b.Upload(x.Value, v)
		}
	})
	d.Changed()
	if got := run(t, d, p); got == base {
		t.Error("the loss ignores the adapter")
	}
	p.Base = true
	if got := run(t, d, p); got != base {
		t.Errorf("loss %v of the base pass, want %v", got, base)
	}
}

// TestDropout compares gradients under dropout with finite differences: the
// masks of a pass are fixed by its seed.
func TestDropout(t *testing.T) {
	for _, dora := range []bool{false, true} {
		b := backend(t)
		d := modeltest.Decoder(t, b, "plain", false)
		s, err := adapter.Attach(d, adapter.Config{DoRA: dora, Rank: 3, Alpha: 6, Dropout: 0.4, Targets: []string{"o_proj", "up_proj"}}, 3)
		if err != nil {
			t.Fatal(err)
		}
		p := model.NewPass(b)
		p.Train, p.Seed = true, 11
		rng, at := model.NewStream(5, "test"), uint64(0)
		d.Params(func(path string, x *model.Param) {
			if strings.HasSuffix(path, "lora_B.weight") {
				v := make([]float32, x.Value.Len())
				for i := range v {
					at++
					v[i] = float32(0.3 * rng.Normal(at))
				}
				b.Upload(x.Value, v)
			}
		})
		d.Changed()
		loss := run(t, d, p)
		if again := run(t, d, p); again != loss {
			t.Errorf("loss %v, then %v with the same seed", loss, again)
		}
		d.Params(func(path string, x *model.Param) {
			// A and B of DoRA also move the norm, which is held constant.
			if x.Grad == nil || dora && !strings.Contains(path, "magnitude") {
				return
			}
			difference(t, d, p, path, x)
		})
		if len(s.Paths()) != 4 {
			t.Errorf("adapters on %q", s.Paths())
		}
		p.Seed++
		if other := run(t, d, p); other == loss {
			t.Error("the seed does not change the mask")
		}
	}
}

// difference checks a gradient along its own direction.
func difference(t *testing.T, d *model.Decoder, p *model.Pass, path string, x *model.Param) {
	t.Helper()
	run(t, d, p)
	v, g := modeltest.Download(p.Backend, x.Value), modeltest.Download(p.Backend, x.Grad)
	norm := 0.0
	for _, y := range g {
		norm += float64(y) * float64(y)
	}
	norm = math.Sqrt(norm)
	const h = 5e-3
	at := func(by float64) float64 {
		moved := slices.Clone(v)
		for i := range moved {
			moved[i] += float32(by * float64(g[i]) / norm)
		}
		p.Upload(x.Value, moved)
		d.Changed()
		return float64(run(t, d, p))
	}
	slope := (at(h) - at(-h)) / (2 * h)
	at(0)
	if !(math.Abs(slope-norm) <= 0.01*norm+1e-4) {
		t.Errorf("%s: slope %v along a gradient of norm %v", path, slope, norm)
	}
}

// TestSaveLoad: what Save writes, Load reads to the same loss.
func TestSaveLoad(t *testing.T) {
	b, dir := backend(t), t.TempDir()
	d := modeltest.Decoder(t, b, "plain", false)
	s, err := adapter.Load(d, filepath.Join(modeltest.Dir(), "dora"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save(dir, "plain"); err != nil {
		t.Fatal(err)
	}
	p := model.NewPass(b)
	want := run(t, d, p)
	s.Detach()
	if _, err := adapter.Load(d, dir); err != nil {
		t.Fatal(err)
	}
	if got := run(t, d, p); got != want {
		t.Errorf("loss %v after loading, %v before saving", got, want)
	}
	if err := func() error { _, err := adapter.Load(d, dir); return err }(); err == nil || !strings.Contains(err.Error(), "has one already") {
		t.Errorf("loading twice: %v", err)
	}
	// The tensors are exactly PEFT's.
	ours, _ := os.ReadFile(filepath.Join(dir, adapter.WeightsName))
	theirs, _ := os.ReadFile(filepath.Join(modeltest.Dir(), "dora", adapter.WeightsName))
	if len(ours) == 0 || string(ours[len(ours)-16000:]) != string(theirs[len(theirs)-16000:]) {
		t.Error("the tensors in the file differ from PEFT's")
	}
}

func TestTargets(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "plain", false)
	var all []string
	d.Linears(func(p string, _ *model.Linear) { all = append(all, p) })
	for _, x := range []struct {
		targets []string
		n       int
		err     string
	}{
		{[]string{"all-linear"}, 14, ""},
		{[]string{"q_proj", "v_proj"}, 4, ""},
		{[]string{"self_attn.q_proj"}, 2, ""},
		{[]string{"model.layers.1.mlp.up_proj"}, 1, ""},
		{[]string{`.*\.1\..*_proj`}, 7, ""},
		{[]string{`q_proj|v_proj`}, 0, "matches no layer"}, // must match the whole path
		{[]string{"q_prj"}, 0, `(did you mean "q_proj"?); the layers are q_proj, k_proj`},
		{[]string{"q_proj", "lm_head"}, 0, `target "lm_head" matches no layer`},
		{[]string{"(("}, 0, "missing closing"},
	} {
		got, err := adapter.Targets(all, x.targets)
		if len(got) != x.n || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
			t.Errorf("%q: %d layers, error %v; want %d, %q", x.targets, len(got), err, x.n, x.err)
		}
	}
}

func TestRefused(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(modeltest.Dir(), "lora", adapter.ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(filepath.Join(modeltest.Dir(), "lora", adapter.WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ from, to, want string }{
		{`"peft_type": "LORA"`, `"peft_type": "IA3"`, `peft_type "IA3" is not supported`},
		{`"bias": "none"`, `"bias": "all"`, `bias "all"`},
		{`"modules_to_save": null`, `"modules_to_save": ["lm_head"]`, "modules_to_save"},
		{`"init_lora_weights": true`, `"init_lora_weights": "pissa_niter_4"`, "pissa"},
		{`"r": 3`, `"r": 0`, "rank is 0"},
		{`"r": 3`, `"r": 5`, "lora_A.weight has shape [3 24]; the model and rank 5 need [5 24]"},
		{`"use_dora": false`, `"use_dora": true`, "lora_magnitude_vector"},
		{`"r": 3`, `"r": `, "adapter_config.json: invalid character"},
	} {
		dir := t.TempDir()
		text := strings.Replace(string(good), x.from, x.to, 1)
		if text == string(good) {
			t.Fatalf("%q is not in the file", x.from)
		}
		os.WriteFile(filepath.Join(dir, adapter.ConfigName), []byte(text), 0o666)
		os.WriteFile(filepath.Join(dir, adapter.WeightsName), weights, 0o666)
		d := modeltest.Decoder(t, backend(t), "plain", false)
		if _, err := adapter.Load(d, dir); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: error %v, want one with %q", x.to, err, x.want)
		}
	}
	d := modeltest.Decoder(t, backend(t), "bias", false)
	if _, err := adapter.Load(d, filepath.Join(modeltest.Dir(), "lora")); err == nil || !strings.Contains(err.Error(), "has shape") {
		t.Errorf("an adapter of another model: %v", err)
	}
	full := modeltest.Decoder(t, backend(t), "plain", true)
	if _, err := adapter.Attach(full, adapter.NewConfig(), 1); err == nil || !strings.Contains(err.Error(), "trained themselves") {
		t.Errorf("an adapter on trained weights: %v", err)
	}
}
