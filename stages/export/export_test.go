package export

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/gguf"
	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

func bench(t *testing.T) *stagetest.Bench {
	t.Helper()
	b := stagetest.New(t)
	backend := cpu.New(1)
	t.Cleanup(func() { backend.Close() })
	b.Backend = backend
	return b
}

// adapted stores a DoRA adapter with weights of its own over base.
func adapted(t *testing.T, b *stagetest.Bench, path string, base stage.Model) stage.Model {
	t.Helper()
	m, d := load(t, path)
	defer m.Close()
	c := adapter.NewConfig()
	c.DoRA, c.Rank, c.Alpha, c.Targets = true, 4, 8, []string{"q_proj", "k_proj", "down_proj"}
	set, err := adapter.Attach(d, c, 7)
	if err != nil {
		t.Fatal(err)
	}
	r := model.NewStream(3, "test")
	d.Params(func(name string, p *model.Param) {
		if p.Grad == nil {
			return
		}
		v := modeltest.Download(d.Backend(), p.Value)
		for i := range v {
			v[i] += 0.1 * float32(r.Normal(uint64(i)))
		}
		d.Backend().Upload(p.Value, v)
	})
	w, err := b.Store.Create(artifact.Model)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(set.Save(w.Dir(), base.Digest.String()), w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{Base: base.Digest, Training: []artifact.Training{
		{Kind: "sft", Settings: map[string]string{"learning_rate": "0.001", "schedule": "cosine"}},
		{Kind: "dpo", Settings: map[string]string{"beta": "0.1"}},
	}})); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return stage.Model{Ref: artifact.Ref{Type: artifact.Model, Addr: "sft.test", Output: "model", Digest: o.Digest}}
}

func load(t *testing.T, path string) (*pretrained.Model, *model.Decoder) {
	t.Helper()
	m, err := pretrained.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b := cpu.New(1)
	d, err := model.Load(b, m.Config, m.Weights, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); b.Close(); m.Close() })
	return m, d
}

// scores returns the log-probabilities of a text under the model at path, with
// the adapter when there is one.
func scores(t *testing.T, path, peft string) []float32 {
	t.Helper()
	m, d := load(t, path)
	if peft != "" {
		if _, err := adapter.Load(d, peft); err != nil {
			t.Fatal(err)
		}
	}
	return scoresOf(t, m, d)
}

func scoresOf(t *testing.T, m *pretrained.Model, d *model.Decoder) []float32 {
	t.Helper()
	ids := m.Tokenizer.Encode("<|im_start|>user\nThe quick brown fox<|im_end|>")
	s, err := d.Score(context.Background(), []model.Continuation{{Context: ids[:1], Target: ids[1:]}}, model.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s[0].LogP
}

// far returns the largest difference; NaN counts as infinitely far.
func far(a, b []float32) (d float64) {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		x := math.Abs(float64(a[i] - b[i]))
		if !(x <= d) {
			d = x
		}
		if x != x {
			return math.Inf(1)
		}
	}
	return d
}

func newSpec(m stage.Model, formats ...string) *spec {
	s := Kind.New().(*spec)
	s.Model, s.Formats = m, formats
	return s
}

// TestFormats: each format gives the log-probabilities of base and adapter.
func TestFormats(t *testing.T) {
	b := bench(t)
	path := modeltest.Directory(t, true)
	base := b.Model(path)
	m := adapted(t, b, path, base)
	a, err := b.Store.Open(m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	peft, err := a.Dir()
	if err != nil {
		t.Fatal(err)
	}
	want := scores(t, path, peft)
	effect := far(want, scores(t, path, ""))
	if !(effect > 0.05) {
		t.Fatalf("the adapter changes log-probabilities by only %v: the test would see nothing", effect)
	}
	s := newSpec(m, "peft", "safetensors", "gguf:f32", "gguf:f16", "gguf:bf16", "gguf:q8_0", "gguf:q4_0")
	s.Base = "org/base"
	r := b.Run(Kind, s)
	dir, err := r.Outputs["files"].Dir()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, adapter string
		tol           float64
	}{
		{path, filepath.Join(dir, "peft"), 0},
		{filepath.Join(dir, "safetensors"), "", 1e-4},
		{filepath.Join(dir, "gguf", "model-f32.gguf"), "", 1e-4},
		{filepath.Join(dir, "gguf", "model-f16.gguf"), "", 5e-3},
		{filepath.Join(dir, "gguf", "model-bf16.gguf"), "", 4e-2},
		{filepath.Join(dir, "gguf", "model-q8_0.gguf"), "", 4e-2},
		{filepath.Join(dir, "gguf", "model-q4_0.gguf"), "", 0.6},
	} {
		if d := far(scores(t, c.file, c.adapter), want); !(d <= c.tol) {
			t.Errorf("%s: log-probabilities are off by %.2g, want at most %g (the adapter changes %.2g)", filepath.Base(c.file), d, c.tol, effect)
		}
	}
	for _, family := range []string{"peft", "safetensors"} {
		for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"} {
			if _, err := os.Stat(filepath.Join(dir, family, name)); err != nil {
				t.Error(err)
			}
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "peft", adapter.ConfigName))
	var c map[string]any
	if err = errors.Join(err, json.Unmarshal(data, &c)); err != nil || c["base_model_name_or_path"] != "org/base" || c["use_dora"] != true || c["r"] != 4.0 {
		t.Errorf("adapter_config.json: %v, %v", c, err)
	}
	if again := b.Run(Kind, s); again.Outputs["files"].Digest() != r.Outputs["files"].Digest() {
		t.Error("a second run made other bytes")
	}
}

// TestTypes: which type the safetensors get.
func TestTypes(t *testing.T) {
	b := bench(t)
	path := modeltest.Directory(t, true)
	src, err := pretrained.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	quantised := filepath.Join(t.TempDir(), "q.gguf")
	c := gguf.Checkpoint{Config: src.Config, Weights: src.Weights, TokenizerJSON: src.TokenizerJSON, ChatTemplate: src.TemplateSource}
	if err := gguf.Export(quantised, c, tensor.Q8_0); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(t.TempDir(), "bf16.gguf")
	if err := gguf.Export(half, c, tensor.BF16); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ path, dtype, want string }{
		{path, "auto", "f32"}, {path, "bf16", "bf16"}, {path, "f16", "f16"},
		{quantised, "auto", "f16"}, {quantised, "f32", "f32"}, {half, "auto", "bf16"},
	} {
		s := newSpec(b.Model(x.path), "safetensors")
		s.DType = x.dtype
		dir, err := b.Run(Kind, s).Outputs["files"].Dir()
		if err != nil {
			t.Fatal(err)
		}
		m, _ := load(t, filepath.Join(dir, "safetensors"))
		for _, name := range m.Weights.Names() {
			if w, err := m.Weights.Weight(name); err != nil || w.DType.String() != x.want {
				t.Errorf("%s, dtype %s: %s is %s, %v", filepath.Base(x.path), x.dtype, name, w.DType, err)
			}
		}
		if m.TemplateSource != src.TemplateSource || !slices.Equal(m.EOS, src.EOS) {
			t.Errorf("%s: template %q, eos %v", filepath.Base(x.path), m.TemplateSource, m.EOS)
		}
	}
}

func TestCheck(t *testing.T) {
	for want, change := range map[string]func(s *spec){
		"formats: is empty":          func(s *spec) { s.Formats = nil },
		`formats: holds "onnx"`:      func(s *spec) { s.Formats = []string{"onnx"} },
		`formats: holds "peft" twic`: func(s *spec) { s.Formats = []string{"peft", "peft"} },
		`dtype: is "q8_0"`:           func(s *spec) { s.DType = "q8_0" },
		`name: is "../x"`:            func(s *spec) { s.Name = "../x" },
		`name: is ""`:                func(s *spec) { s.Name = "" },
		"base_model: is":             func(s *spec) { s.Base = "a\"\nb" },
		"card: entry":                func(s *spec) { s.Card = map[string]string{"a": "b|c"} },
	} {
		s := newSpec(stage.Model{}, "safetensors")
		change(s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := newSpec(stage.Model{}, "peft", "gguf:q4_0").Check(); err != nil {
		t.Error(err)
	}
}

func TestRefuses(t *testing.T) {
	b := bench(t)
	path := modeltest.Directory(t, true)
	s := newSpec(b.Model(path), "peft")
	var field *stage.FieldError
	if _, err := b.Try(context.Background(), Kind, s); !errors.As(err, &field) || field.Field != "formats" || !strings.Contains(field.Problem, "has no adapter") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.Try(ctx, Kind, newSpec(b.Model(path), "safetensors")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// A tokenizer that llama.cpp has no name for.
	data, err := os.ReadFile(filepath.Join(path, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	odd := strings.Replace(string(data), `"pre_tokenizer":{"add_prefix_space":false`, `"pre_tokenizer":{"add_prefix_space":true`, 1)
	if odd == string(data) {
		t.Fatal("the test's change found nothing")
	}
	if err := os.WriteFile(filepath.Join(path, "tokenizer.json"), []byte(odd), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Try(context.Background(), Kind, newSpec(b.Model(path), "gguf:f16")); !errors.As(err, &field) || field.Field != "formats" || !strings.Contains(field.Problem, "holds gguf:f16, but tokenizer: ") || !strings.Contains(field.Problem, "not one that llama.cpp knows") {
		t.Errorf("got %v", err)
	}
}

// TestTakes: what formats cannot hold is known before a model is tuned.
func TestTakes(t *testing.T) {
	takes := func(path string, formats ...string) error {
		return newSpec(stage.Model{}, formats...).Takes(stage.ModelPath{Base: path})
	}
	plain, llama4 := modeltest.Directory(t, true), modeltest.Llama4Directory(t, true)
	for _, err := range []error{takes(plain, "peft", "safetensors", "bnb:nf4", "gguf:q8_0"), takes(llama4, "peft", "safetensors")} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := takes(llama4, "peft", "gguf:q8_0"); err == nil || !strings.Contains(err.Error(), "holds gguf:q8_0, but a Llama 4") {
		t.Errorf("got %v", err)
	}
	m, err := pretrained.Open(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c := gguf.Checkpoint{Config: m.Config, Weights: m.Weights, TokenizerJSON: m.TokenizerJSON}
	c.Config.Rope.Divisors = []float32{1, 7, 2, 3}
	odd := filepath.Join(t.TempDir(), "odd.gguf")
	if err := gguf.Export(odd, c, tensor.F32); err != nil {
		t.Fatal(err)
	}
	if err := takes(odd, "peft", "gguf:q8_0"); err != nil {
		t.Error(err)
	}
	if err := takes(odd, "safetensors"); err == nil || !strings.Contains(err.Error(), "holds safetensors, but config.json cannot express") {
		t.Errorf("got %v", err)
	}
}

// TestEndOfTurn: what is exported stops where the chat template ends a turn, also
// over a base that ends documents only.
func TestEndOfTurn(t *testing.T) {
	b := bench(t)
	path := modeltest.Directory(t, true)
	for name, from := range map[string]string{"config.json": `"eos_token_id": 258`, "tokenizer_config.json": `"eos_token":"\u003c|im_end|\u003e"`} {
		data, err := os.ReadFile(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(data), from, strings.NewReplacer("258", "256", "im_end", "endoftext").Replace(from), 1)
		if changed == string(data) {
			t.Fatalf("the test's change of %s found nothing", name)
		}
		if err := os.WriteFile(filepath.Join(path, name), []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, "generation_config.json"), []byte(`{"eos_token_id":256}`), 0o644); err != nil {
		t.Fatal(err)
	}
	r := b.Run(Kind, newSpec(b.Model(path), "safetensors", "gguf:f32"))
	dir, err := r.Outputs["files"].Dir()
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "safetensors", "generation_config.json")); err != nil || string(data) != `{"eos_token_id":[256,258]}` {
		t.Errorf("generation_config.json: %s, %v", data, err)
	}
	f, err := gguf.Open(filepath.Join(dir, "gguf", "model-f32.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Config().EOS; !slices.Equal(got, []int32{256, 258}) {
		t.Errorf("GGUF: texts end with %v", got)
	}
}

// TestTrainedBase: an adapter over weights that a stage trained, which nobody else has,
// is not written without a word, unless it is said where they are.
func TestTrainedBase(t *testing.T) {
	b := bench(t)
	w, err := b.Store.Create(artifact.Model)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.CopyFS(w.Dir(), os.DirFS(modeltest.Directory(t, true))), w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{})); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	base := stage.Model{Ref: artifact.Ref{Type: artifact.Model, Addr: "sft.full", Output: "model", Digest: o.Digest}}
	a, err := b.Store.Open(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	path, err := a.Dir()
	if err != nil {
		t.Fatal(err)
	}
	m := adapted(t, b, path, base)
	elsewhere := newSpec(m, "peft")
	elsewhere.Base = "org/full"
	for _, x := range []struct {
		spec  *spec
		notes int
	}{{newSpec(m, "peft"), 1}, {elsewhere, 0}, {newSpec(m, "safetensors"), 0}, {newSpec(base, "safetensors"), 0}} {
		if notes := b.Run(Kind, x.spec).Notes; len(notes) != x.notes || x.notes == 1 && !strings.Contains(notes[0], "say with base_model") {
			t.Errorf("%v of %v: notes %q", x.spec.Formats, x.spec.Model, notes)
		}
	}
}

// TestMisheard: what GGUF cannot say of a tokenizer is noted where it changes a
// conversation, once for all files.
func TestMisheard(t *testing.T) {
	b := bench(t)
	path := modeltest.Directory(t, true)
	export := func() []string {
		t.Helper()
		return b.Run(Kind, newSpec(b.Model(path), "safetensors", "gguf:f32", "gguf:f16")).Notes
	}
	if notes := export(); len(notes) != 0 {
		t.Errorf("notes %q", notes)
	}
	name := filepath.Join(path, "tokenizer.json")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// The newlines behind the ends of turns are swallowed.
	swallows := strings.ReplaceAll(string(data), `"rstrip":false`, `"rstrip":true`)
	if swallows == string(data) {
		t.Fatal("the test's change found nothing")
	}
	if err := os.WriteFile(name, []byte(swallows), 0o644); err != nil {
		t.Fatal(err)
	}
	if notes := export(); len(notes) != 1 || !strings.Contains(notes[0], `first "Ċ" where tokenizer.json has`) {
		t.Errorf("notes %q", notes)
	}
}

// TestCard: the card tells how the model was made.
func TestCard(t *testing.T) {
	b := bench(t)
	path := modeltest.Directory(t, true)
	m := adapted(t, b, path, b.Model(path))
	data := stagetest.Dataset(b, artifact.Row{ID: "1", Text: "x", Gold: -1}, artifact.Row{ID: "2", Text: "y", Gold: -1})
	s := newSpec(m, "peft", "gguf:q8_0")
	s.Name, s.Base = "legal", "org/base"
	s.Data = []stage.AnyDataset{stage.AnyDataset(data)}
	s.Metrics = []stage.Metrics{b.Metrics(artifact.MetricsFile{
		Metrics:  map[string]artifact.Metric{"qa.acc": {N: 40, Value: 0.75, Stderr: 0.069}},
		Baseline: map[string]artifact.Metric{"qa.acc": {N: 40, Value: 0.5}},
	})}
	s.Card = map[string]string{"learning rate": "2e-4", "epochs": "2"}
	out := b.Run(Kind, s).Outputs["files"]
	for family, wants := range map[string][]string{
		"peft": {"library_name: peft", "vLLM and llama.cpp do not load"},
		"gguf": {"library_name: gguf"},
	} {
		file, err := out.Path(family + "/README.md")
		if err != nil {
			t.Fatal(err)
		}
		card, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		wants = append(wants, "\n# legal\n", `base_model: "org/base"`, "| method | dora |", "| r | 4 |", "| lora_alpha | 8 |",
			"| target_modules | down_proj, k_proj, q_proj |", "| epochs | 2 |\n| learning rate | 2e-4 |",
			data.Digest.String()+" | 2 |", m.Digest.String(), "### Stage 1: sft\n\n| | |\n|---|---|\n| learning_rate | 0.001 |\n| schedule | cosine |\n",
			"### Stage 2: dpo\n\n| | |\n|---|---|\n| beta | 0.1 |\n", "| qa.acc | 40 | 0.75 | 0.069 | 0.5 |")
		for _, w := range wants {
			if !strings.Contains(string(card), w) {
				t.Errorf("%s: the card lacks %q:\n%s", family, w, card)
			}
		}
		if strings.Contains(string(card), path) {
			t.Errorf("%s: the card tells where the base lies on this machine", family)
		}
	}
}

func TestBaseName(t *testing.T) {
	commit := strings.Repeat("0123456789", 4)
	for path, want := range map[string][2]string{
		"/c/hub/models--org--my-model/snapshots/" + commit:             {"org/my-model", commit},
		"/c/hub/models--org--m/snapshots/" + commit + "/q/m-Q4_0.gguf": {"org/m", commit},
		"/home/me/models/llama":                                        {"llama", ""},
		"/home/me/m.gguf":                                              {"m.gguf", ""},
	} {
		if name, rev := baseName(path); name != want[0] || rev != want[1] {
			t.Errorf("%s: %s, %s", path, name, rev)
		}
	}
}
