package model_test

import (
	"context"
	"encoding/json"
	"fmt"
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
)

// The documents of the fixtures of Llama 4, and their scored tokens: the first is
// longer than two chunks.
var (
	docs4 = [][]int32{
		{1, 17, 5, 42, 9, 9, 30, 2, 44, 13, 8, 51, 6, 6, 27, 19, 3, 12, 40, 7, 7, 33, 25}, {1, 3, 50, 28, 11},
		{1, 8, 8, 21, 2, 45, 7, 33, 19, 22, 31, 46},
	}
	spans4 = [][2]int{{2, 22}, {1, 5}, {9, 12}}
	llama4 = []string{"one", "two"}
)

func batch4() (b model.Batch) {
	for i, ids := range docs4 {
		at := int32(len(b.IDs))
		b.Starts, b.IDs = append(b.Starts, at), append(b.IDs, ids...)
		for j := spans4[i][0]; j < spans4[i][1]; j++ {
			b.Rows, b.Targets = append(b.Rows, at+int32(j-1)), append(b.Targets, ids[j])
		}
	}
	return b
}

// pass4 takes the packed documents through d and back and returns the loss.
func pass4(t *testing.T, d *model.Decoder, p *model.Pass) float32 {
	t.Helper()
	d.Params(func(_ string, x *model.Param) {
		if x.Grad != nil {
			p.Zero(x.Grad)
		}
	})
	return trip(t, d, p, batch4())
}

// grads are the gradients of a decoder, as the checkpoint is stored.
func grads(d *model.Decoder) model.Source {
	w := model.Weights{}
	d.Params(func(name string, p *model.Param) {
		if p.Grad != nil {
			w[name] = weight(modeltest.Download(d.Backend(), p.Grad), p.Grad.Shape...)
		}
	})
	return d.Config.ToStored(w)
}

func weight(x []float32, shape ...int) model.Weight {
	w := model.Weight{DType: tensor.F32, Shape: shape}
	for _, v := range x {
		u := math.Float32bits(v)
		w.Data = append(w.Data, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
	}
	return w
}

func floats(t *testing.T, src model.Source, name string) []float32 {
	t.Helper()
	w, err := src.Weight(name)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := modeltest.Reference{}.Load(w.DType, w.Data, w.Shape...)
	return modeltest.Download(modeltest.Reference{}, x)
}

// TestLlama4Gradients compares the loss and every gradient of packed documents with transformers,
// which ran them one by one.
func TestLlama4Gradients(t *testing.T) {
	for _, name := range llama4 {
		for _, recompute := range []bool{false, true} {
			for _, b := range []tensor.Backend{backend(t), modeltest.Reference{}} {
				d, fix := modeltest.Decoder(t, b, "llama4/"+name, true), modeltest.Load(t, "llama4/"+name+".safetensors")
				p := model.NewPass(b)
				p.Train, p.Recompute = true, recompute
				title := fmt.Sprintf("%s on %s, recompute %t: ", name, b.Name(), recompute)
				for range 2 { // the second in the workspace of the first
					modeltest.Close(t, title+"loss", []float32{pass4(t, d, p)}, fix.Floats("loss"), tolerance)
				}
				g, n := grads(d), 0
				for _, key := range fix.Names() {
					if path, ok := strings.CutPrefix(key, "grad."); ok {
						modeltest.Close(t, title+key, floats(t, g, path), fix.Floats(key), tolerance)
						n++
					}
				}
				if n != len(g.Names()) {
					t.Errorf("%s%d gradients; the fixture has %d", title, len(g.Names()), n)
				}
				p.Close()
			}
		}
	}
}

// TestLlama4Logits compares logits of packed documents.
func TestLlama4Logits(t *testing.T) {
	for _, name := range llama4 {
		allLogits(t, "llama4/"+name, batch4())
	}
}

// allLogits compares the logits of every token of b.
func allLogits(t *testing.T, name string, b model.Batch) {
	t.Helper()
	d := modeltest.Decoder(t, backend(t), name, false)
	p := model.NewPass(d.Backend())
	defer p.Close()
	b.Rows, b.Targets = nil, b.IDs
	for i := range b.IDs {
		b.Rows = append(b.Rows, int32(i))
	}
	z, err := d.Logits(p, b)
	if err != nil {
		t.Fatal(err)
	}
	modeltest.Close(t, name, z, modeltest.Load(t, name+".safetensors").Floats("logits"), tolerance)
}

// TestLlama4Greedy compares greedy tokens, alone and together, over the ends of chunks.
func TestLlama4Greedy(t *testing.T) {
	for _, name := range llama4 {
		d, fix := modeltest.Decoder(t, backend(t), "llama4/"+name, false), modeltest.Load(t, "llama4/"+name+".safetensors")
		var reqs []model.Request
		for _, ids := range docs4 {
			reqs = append(reqs, model.Request{Prompt: ids, MaxTokens: 20})
		}
		for _, batch := range []int{1, 3} {
			for i, r := range collect(t, d, reqs, model.GenerateOptions{Batch: batch}) {
				if want := fix.Ints(fmt.Sprintf("greedy.%d", i)); !slices.Equal(r.IDs, want) {
					t.Errorf("%s, %d at once, document %d: %v, want %v", name, batch, i, r.IDs, want)
				}
			}
		}
	}
}

// TestLlama4Batching: sampled tokens do not depend on what is generated beside them, nor on the
// precision's path.
func TestLlama4Batching(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		d := modeltest.Decoder(t, backend(t), "llama4/two", false)
		d.SetPrecision(dt)
		alone := collect(t, d, requests(), model.GenerateOptions{Batch: 1})
		for _, batch := range []int{2, 9} {
			for i, r := range collect(t, d, requests(), model.GenerateOptions{Batch: batch}) {
				if !slices.Equal(r.IDs, alone[i].IDs) {
					t.Errorf("%s, %d at once, request %d: %v, alone %v", dt, batch, i, r.IDs, alone[i].IDs)
				}
			}
		}
	}
}

// TestLlama4Score: continuations that share a beginning have the probabilities of whole documents.
func TestLlama4Score(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "llama4/one", false)
	p, b := model.NewPass(d.Backend()), batch4()
	defer p.Close()
	s, err := d.LogProb(p, b)
	if err != nil {
		t.Fatal(err)
	}
	var cs []model.Continuation
	for i, ids := range docs4 {
		for j := spans4[i][0]; j < spans4[i][1]; j++ {
			cs = append(cs, model.Continuation{Context: ids[:j], Target: ids[j : j+1]})
		}
	}
	got, err := d.Score(context.Background(), cs, model.ScoreOptions{Tokens: 40})
	if err != nil {
		t.Fatal(err)
	}
	var all []float32
	for _, x := range got {
		all = append(all, x.LogP...)
	}
	modeltest.Close(t, "scores", all, s.LogP, tolerance)
}

// TestLlama4Adapter loads a DoRA adapter that PEFT saved: loss, gradients, merged weights, and
// what it is saved as.
func TestLlama4Adapter(t *testing.T) {
	for _, name := range llama4 {
		b := backend(t)
		d, fix := modeltest.Decoder(t, b, "llama4/"+name, false), modeltest.Load(t, "llama4/"+name+".safetensors")
		dir := filepath.Join(modeltest.Dir(), "llama4", name, "dora")
		s, err := adapter.Load(d, dir)
		if err != nil {
			t.Fatal(err)
		}
		p := model.NewPass(b)
		p.Train = true
		modeltest.Close(t, name+" loss", []float32{pass4(t, d, p)}, fix.Floats("dora.loss"), tolerance)
		n := 0
		d.Params(func(path string, x *model.Param) {
			if x.Grad == nil {
				return
			}
			key := "dora.grad." + path
			layer, param, _ := strings.Cut(path, ".lora_")
			if param == "magnitude_vector" {
				key += ".weight"
			}
			got := weight(modeltest.Download(b, x.Grad), x.Grad.Shape...)
			if order := d.Config.StoredRows(layer); order != nil && param != "A.weight" {
				data := slices.Clone(got.Data)
				model.Permute(got.Data, data, len(data)/len(order), order, true)
			}
			modeltest.Close(t, name+" "+key, floats(t, model.Weights{"": got}, ""), fix.Floats(key), tolerance)
			n++
		})
		if want := 3 * 7 * 4; n != want {
			t.Errorf("%s: %d trained tensors, want %d", name, n, want)
		}
		p.Close()
		_, src := modeltest.Checkpoint(t, "llama4/"+name)
		stored := d.Config.ToStored(s.Merge(src))
		for _, key := range fix.Names() {
			if path, ok := strings.CutPrefix(key, "merged."); ok {
				modeltest.Close(t, name+" "+key, floats(t, stored, path), fix.Floats(key), tolerance)
			}
		}
		out := t.TempDir()
		if err := s.Save(out, name); err != nil {
			t.Fatal(err)
		}
		again := modeltest.Decoder(t, b, "llama4/"+name, false)
		if _, err := adapter.Load(again, out); err != nil {
			t.Fatal(err)
		}
		got, want := tensors(t, filepath.Join(out, adapter.WeightsName)), tensors(t, filepath.Join(dir, adapter.WeightsName))
		if len(got) != len(want) {
			t.Errorf("%s: %d tensors are saved, want %d", name, len(got), len(want))
		}
		for key, w := range want {
			if !slices.Equal(got[key], w) {
				t.Errorf("%s: %s is saved as %v, want %v", name, key, got[key], w)
			}
		}
	}
}

// tensors reads all tensors of a file.
func tensors(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	f := modeltest.Open(t, path)
	all := map[string][]float32{}
	for _, n := range f.Names() {
		all[n] = floats(t, f, n)
	}
	return all
}

// TestStored: a checkpoint comes back as it was, and may have a matrix for each expert.
func TestStored(t *testing.T) {
	c, src := modeltest.Checkpoint(t, "llama4/one")
	file := modeltest.Open(t, filepath.Join(modeltest.Dir(), "llama4", "one", "model.safetensors"))
	back := c.ToStored(src)
	if !slices.Equal(back.Names(), file.Names()) {
		t.Errorf("names %v, want %v", back.Names(), file.Names())
	}
	one := model.Weights{}
	for _, n := range file.Names() {
		got, err1 := back.Weight(n)
		want, err2 := file.Weight(n)
		like, err3 := model.Describe(back, n)
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}
		if !slices.Equal(got.Data, want.Data) || !slices.Equal(got.Shape, want.Shape) || !slices.Equal(like.Shape, want.Shape) || like.DType != want.DType || like.Data != nil {
			t.Errorf("%s differs", n)
		}
		if !strings.Contains(n, ".experts.") {
			one[n] = want
		}
	}
	for _, n := range src.Names() {
		prefix, which, ok := strings.Cut(n, ".experts.")
		if !ok {
			continue
		}
		w, err := src.Weight(n)
		if err != nil {
			t.Fatal(err)
		}
		rows := w.Shape[0] / c.Llama4.Experts
		for e := range c.Llama4.Experts {
			size := len(w.Data) / c.Llama4.Experts
			one[fmt.Sprintf("%s.experts.%d.%s", prefix, e, which)] = model.Weight{DType: w.DType, Shape: []int{rows, w.Shape[1]}, Data: w.Data[e*size : (e+1)*size]}
		}
	}
	each := c.FromStored(one)
	if err := model.CheckWeights(c, each); err != nil {
		t.Fatal(err)
	}
	for _, n := range src.Names() {
		if !slices.Equal(floats(t, each, n), floats(t, src, n)) {
			t.Errorf("%s of single experts differs", n)
		}
	}
	for want, change := range map[string]func(w model.Weights){
		"neither model.layers.1.feed_forward.experts.gate_up_proj, of all experts, nor model.layers.1.feed_forward.experts.0.gate_proj.weight, of one": func(w model.Weights) {
			for n := range w {
				if strings.Contains(n, "layers.1.feed_forward.experts.") {
					delete(w, n)
				}
			}
		},
		"has no model.layers.1.feed_forward.experts.3.up_proj.weight": func(w model.Weights) { delete(w, "model.layers.1.feed_forward.experts.3.up_proj.weight") },
		"the experts before it are":                                   func(w model.Weights) { change(w, "model.layers.1.feed_forward.experts.2.up_proj.weight") },
		"config.json has no such tensor": func(w model.Weights) {
			w["model.layers.1.feed_forward.experts.9.up_proj.weight"] = w["model.norm.weight"]
		},
		"router.weight is missing":       func(w model.Weights) { delete(w, "model.layers.3.feed_forward.router.weight") },
		"q_proj.weight has shape [2 12]": func(w model.Weights) { change(w, "model.layers.0.self_attn.q_proj.weight") },
		"has element type i32; must be f32": func(w model.Weights) {
			w["model.layers.1.feed_forward.experts.gate_up_proj"] = model.Weight{DType: tensor.I32, Shape: []int{4, 20, 28}}
		},
		"gate_up_proj has shape [4 28 20] in ": func(w model.Weights) {
			w["model.layers.1.feed_forward.experts.gate_up_proj"] = model.Weight{Shape: []int{4, 28, 20}}
		},
		"gate_up_proj has 3 bytes": func(w model.Weights) {
			w["model.layers.1.feed_forward.experts.gate_up_proj"] = model.Weight{Shape: []int{4, 20, 28}, Data: make([]byte, 3)}
		},
	} {
		w := model.Weights{}
		for n, x := range one {
			w[n] = x
		}
		change(w)
		_, err := model.Load(backend(t), c, c.FromStored(w), false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// change gives a tensor another shape.
func change(w model.Weights, name string) {
	x := w[name]
	x.Shape, x.Data = []int{2, 12}, x.Data[:96]
	w[name] = x
}

func TestLlama4Config(t *testing.T) {
	c, _ := modeltest.Checkpoint(t, "llama4/two")
	if v := c.Llama4; v.Top != 2 || v.QKNorm || !slices.Equal(v.MoE, []bool{true, false, true, false}) || !slices.Equal(v.Rope, []bool{true, false, true, true}) ||
		!slices.Equal(v.Chunked, v.Rope) || v.Chunk != 8 || v.Dense != 28 {
		t.Errorf("%+v", v)
	}
	for _, name := range llama4 {
		c, _ := modeltest.Checkpoint(t, "llama4/"+name)
		data, err := c.JSON("float32")
		if err != nil {
			t.Fatal(err)
		}
		again, err := model.ParseConfig(data)
		a, _ := json.Marshal(again)
		b, _ := json.Marshal(c)
		if err != nil || string(a) != string(b) {
			t.Errorf("%s: read again as %s, %v; was %s", name, a, err, b)
		}
	}
	scout, err := model.ParseConfig([]byte(`{"model_type": "llama4_text", "attn_temperature_tuning": 4}`))
	if err != nil {
		t.Fatal(err)
	}
	if v := scout.Llama4; !v.Tuned || v.Experts != 16 || v.Top != 1 || !v.MoE[0] || v.Rope[3] || !v.Rope[4] || v.Chunk != 8192 || scout.HeadDim != 128 || scout.Rope.Theta != 500000 {
		t.Errorf("%+v", scout)
	}
	plain, err := os.ReadFile(filepath.Join(modeltest.Dir(), "llama4", "one", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	with := func(key, value string) []byte {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(plain, &all); err != nil {
			t.Fatal(err)
		}
		all[key] = json.RawMessage(value)
		data, _ := json.Marshal(all)
		return data
	}
	for _, x := range []struct{ key, value, want string }{
		{"num_local_experts", "0", "num_local_experts is 0"},
		{"num_local_experts", "5000", "must be between 1 and 1024"},
		{"num_experts_per_tok", "5", "num_experts_per_tok is 5; must be between 1 and num_local_experts, 4"},
		{"intermediate_size_mlp", "-1", "intermediate_size_mlp is -1"},
		{"moe_layers", "[4]", "moe_layers holds 4"},
		{"no_rope_layers", "[1]", "no_rope_layers has 1 entries for 4 layers"},
		{"layer_types", `["full_attention"]`, "layer_types has 1 entries"},
		{"layer_types", `["x","full_attention","full_attention","full_attention"]`, `layer_types[0] is "x"`},
		{"attention_chunk_size", "0", "attention_chunk_size is 0"},
		{"attention_chunk_size", "null", "attention_chunk_size is null"},
		{"attention_chunk_size", `"a"`, "attention_chunk_size"},
		{"attn_temperature_tuning", `"a"`, "attn_temperature_tuning"},
		{"floor_scale", "0", "floor_scale is 0"},
		{"attn_scale", "-1", "attn_scale is -1"},
		{"num_hidden_layers", "100000", "num_hidden_layers is 100000"},
	} {
		if _, err := model.ParseConfig(with(x.key, x.value)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s %s: error %v, want one with %q", x.key, x.value, err, x.want)
		}
	}
	if c, err := model.ParseConfig(with("moe_layers", "[]")); err != nil || slices.Contains(c.Llama4.MoE, true) {
		t.Errorf("no experts: %v", err)
	}
}

// TestLlama4Images: of a model that takes images too, the text is used and written.
func TestLlama4Images(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(modeltest.Dir(), "llama4", "one", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := model.ParseConfig(fmt.Appendf(nil, `{"model_type": "llama4", "hidden_size": 7, "text_config": %s, "vision_config": {"hidden_size": 8}}`, text))
	if err != nil {
		t.Fatal(err)
	}
	file, w := modeltest.Open(t, filepath.Join(modeltest.Dir(), "llama4", "one", "model.safetensors")), model.Weights{}
	for _, n := range file.Names() {
		if w["language_model."+n], err = file.Weight(n); err != nil {
			t.Fatal(err)
		}
	}
	w["vision_model.class_embedding"] = model.Weight{DType: tensor.F32, Shape: []int{8}}
	d, err := model.Load(backend(t), c, c.FromStored(w), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fix := modeltest.Load(t, "llama4/one.safetensors")
	got := collect(t, d, []model.Request{{Prompt: docs4[0], MaxTokens: 20}}, model.GenerateOptions{})
	if want := fix.Ints("greedy.0"); !slices.Equal(got[0].IDs, want) {
		t.Errorf("%v, want %v", got[0].IDs, want)
	}
	if names := c.ToStored(c.FromStored(w)).Names(); !slices.Equal(names, file.Names()) {
		t.Errorf("written are %v", names)
	}
	data, err := c.JSON("float32")
	if again, err2 := model.ParseConfig(data); err != nil || err2 != nil || again.Llama4.Images {
		t.Errorf("written is %s, %v, %v", data, err, err2)
	}
	for config, want := range map[string]string{
		`{"model_type": "llama4"}`: "no text_config",
		`{"model_type": "llama4", "text_config": {"model_type": "gemma"}}`:                            `text_config: model_type "gemma" is not supported`,
		`{"model_type": "llama4", "text_config": {}, "quantization_config": {"quant_method": "fp8"}}`: `quant_method "fp8" is not supported`,
	} {
		if _, err := model.ParseConfig([]byte(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", config, err, want)
		}
	}
}

// TestChunks: a query sees its chunk, wherever its segment begins.
func TestChunks(t *testing.T) {
	for _, x := range []struct{ s, want model.Segments }{
		{model.Segments{Q: []int32{0, 3, 13}, K: []int32{0, 3}, KLen: []int32{3, 10}},
			model.Segments{Q: []int32{0, 3, 7, 11, 13}, K: []int32{0, 3, 7, 11}, KLen: []int32{3, 4, 4, 2}}},
		// The last of a document with a cache, and the middle of one.
		{model.Segments{Q: []int32{0, 1, 2, 7}, K: []int32{10, 50, 90}, KLen: []int32{9, 8, 11}},
			model.Segments{Q: []int32{0, 1, 2, 4, 7}, K: []int32{18, 54, 94, 98}, KLen: []int32{1, 4, 4, 3}}},
	} {
		var got model.Segments
		x.s.Chunk(&got, 4)
		if fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%v in chunks of 4: %v, want %v", x.s, got, x.want)
		}
	}
}

// TestLlama4Steady: a pass allocates nothing that a pass before had.
func TestLlama4Steady(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "llama4/one", false)
	s, err := adapter.Load(d, filepath.Join(modeltest.Dir(), "llama4", "one", "dora"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Detach()
	p, b := model.NewPass(d.Backend()), batch4()
	defer p.Close()
	p.Train = true
	grad := make([]float32, len(b.Targets))
	step := func() {
		if _, err := d.LogProb(p, b); err != nil {
			t.Fatal(err)
		}
		if err := d.Backward(p, grad); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if n := testing.AllocsPerRun(5, step); n > 0.5 {
		t.Errorf("%v allocations a pass", n)
	}
}

// FuzzStored: tensors of any names, shapes and sizes are read as Load takes them or refused, and never
// taken for more than they are.
func FuzzStored(f *testing.F) {
	f.Add("model.layers.1.feed_forward.experts.gate_up_proj", uint8(0), 4, 20, 28, 4*20*28*4)
	f.Add("model.layers.1.feed_forward.experts.down_proj", uint8(2), 4, 14, 20, 7)
	f.Add("model.layers.1.feed_forward.experts.0.up_proj.weight", uint8(9), 14, 20, -1, 3)
	f.Add("model.layers.0.self_attn.q_proj.weight", uint8(5), 24, 20, -1, 24*20)
	f.Add("model.layers.0.self_attn.k_proj.bias", uint8(1), 12, -1, -1, 24)
	c, src := modeltest.Checkpoint(f, "llama4/one")
	names := src.Names()
	f.Fuzz(func(t *testing.T, name string, dt uint8, x, y, z, size int) {
		w := model.Weight{DType: tensor.DType(dt), Data: make([]byte, min(max(size, 0), 1<<16))}
		if !w.DType.Valid() {
			return // no file has one
		}
		for _, d := range []int{x, y, z} {
			if d >= 0 {
				w.Shape = append(w.Shape, d)
			}
		}
		from := c.FromStored(model.Weights{name: w})
		for _, n := range append(from.Names(), names...) {
			got, err := from.Weight(n)
			like, err2 := model.Describe(from, n)
			if err == nil && err2 == nil && (!slices.Equal(got.Shape, like.Shape) || got.DType != like.DType) {
				t.Errorf("%s is %v, and described as %v", n, got.Shape, like.Shape)
			}
		}
		if err := model.CheckWeights(c, from); err == nil {
			t.Error("one tensor is a checkpoint")
		}
	})
}
