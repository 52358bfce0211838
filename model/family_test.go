package model_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/tensor"
)

// The fixtures of the families beside Llama, and of a Llama with linear scaling.
var families = []string{"linear", "mistral", "qwen2", "qwen3", "qwen3_bias", "smollm3"}

// TestFamilyGradients compares loss, every gradient and the logits of packed documents with
// transformers, which ran them one by one; and of a DoRA adapter that PEFT saved.
func TestFamilyGradients(t *testing.T) {
	for _, name := range families {
		for _, recompute := range []bool{false, true} {
			for _, b := range []tensor.Backend{backend(t), modeltest.Reference{}} {
				t.Run(fmt.Sprintf("%s/recompute=%t/%s", name, recompute, b.Name()), func(t *testing.T) {
					gradients(t, b, "families/"+name, recompute)
					familyAdapter(t, b, name, recompute)
				})
			}
		}
	}
}

func familyAdapter(t *testing.T, b tensor.Backend, name string, recompute bool) {
	d, fix := modeltest.Decoder(t, b, "families/"+name, false), modeltest.Load(t, "families/"+name+".safetensors")
	if _, err := adapter.Load(d, filepath.Join(modeltest.Dir(), "families", name, "dora")); err != nil {
		t.Fatal(err)
	}
	p := model.NewPass(b)
	defer p.Close()
	p.Train, p.Recompute = true, recompute
	modeltest.Close(t, "loss with DoRA", []float32{trip(t, d, p, modeltest.Batch())}, fix.Floats("dora.loss"), tolerance)
	n := 0
	d.Params(func(path string, x *model.Param) {
		if x.Grad == nil {
			return
		}
		if n++; strings.HasSuffix(path, ".lora_magnitude_vector") {
			path += ".weight"
		}
		modeltest.Close(t, path, modeltest.Download(b, x.Grad), fix.Floats("dora.grad."+path), tolerance)
	})
	if want := 3 * 7 * d.Config.Layers; n != want {
		t.Errorf("%d tensors are trained, want %d", n, want)
	}
}

// TestFamilyLogits compares the logits of packed documents.
func TestFamilyLogits(t *testing.T) {
	for _, name := range families {
		allLogits(t, "families/"+name, modeltest.Batch())
	}
}

// TestFamilyGreedy compares greedy tokens with transformers' generate, alone and beside others.
func TestFamilyGreedy(t *testing.T) {
	for _, name := range families {
		d, fix := modeltest.Decoder(t, backend(t), "families/"+name, false), modeltest.Load(t, "families/"+name+".safetensors")
		want := fix.Ints("greedy")
		d.Config.EOS = nil
		var reqs []model.Request
		for range 3 {
			reqs = append(reqs, model.Request{Prompt: modeltest.Docs()[1], MaxTokens: len(want)})
		}
		for _, batch := range []int{1, 3} {
			for i, r := range collect(t, d, reqs, model.GenerateOptions{Batch: batch}) {
				if !slices.Equal(r.IDs, want) {
					t.Errorf("%s, %d at once, request %d: %v, want %v", name, batch, i, r.IDs, want)
				}
			}
		}
	}
}

// TestFamilyBatching: with products in bfloat16, too, sampled tokens do not depend on what is
// generated beside them.
func TestFamilyBatching(t *testing.T) {
	for _, name := range []string{"qwen3", "smollm3"} {
		d := modeltest.Decoder(t, backend(t), "families/"+name, false)
		d.SetPrecision(tensor.BF16)
		alone := collect(t, d, requests(), model.GenerateOptions{Batch: 1})
		for i, r := range collect(t, d, requests(), model.GenerateOptions{Batch: 9}) {
			if !slices.Equal(r.IDs, alone[i].IDs) {
				t.Errorf("%s, request %d: %v, alone %v", name, i, r.IDs, alone[i].IDs)
			}
		}
	}
}

// TestFamilyJSON: what is written is read again, and transformers' names are kept.
func TestFamilyJSON(t *testing.T) {
	for _, name := range families {
		c, _ := modeltest.Checkpoint(t, "families/"+name)
		data, err := c.JSON("float32")
		if err != nil {
			t.Fatal(err)
		}
		again, err := model.ParseConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprintf("%+v %+v", again, again.Sliding), fmt.Sprintf("%+v %+v", c, c.Sliding); again.Sliding == nil && got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		var h struct {
			Type      string   `json:"model_type"`
			Classes   []string `json:"architectures"`
			Positions int      `json:"max_position_embeddings"`
			Window    *int     `json:"sliding_window"`
			Types     []string `json:"layer_types"`
		}
		if err := json.Unmarshal(data, &h); err != nil {
			t.Fatal(err)
		}
		class := map[string]string{"mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "smollm3": "SmolLM3ForCausalLM", "llama": "LlamaForCausalLM"}[h.Type]
		if name != "linear" && !strings.HasPrefix(name, h.Type) || !slices.Equal(h.Classes, []string{class}) || h.Positions != 64 {
			t.Errorf("%s is written as %+v", name, h)
		}
		windows := map[string]int{"mistral": 9, "qwen3_bias": 10}
		if w := windows[name]; w == 0 && (h.Window != nil || c.MaxPositions != 64) || w > 0 && (h.Window == nil || *h.Window != w || c.MaxPositions != w) {
			t.Errorf("%s: a window of %v is written, and the context is %d", name, h.Window, c.MaxPositions)
		}
		if name == "qwen3_bias" && !slices.Equal(h.Types, []string{"full_attention", "sliding_attention", "sliding_attention"}) {
			t.Errorf("layer_types are %v", h.Types)
		}
	}
}

func TestFamilyConfigs(t *testing.T) {
	const (
		mistral = `{"model_type":"mistral","num_hidden_layers":2`
		qwen2   = `{"model_type":"qwen2","hidden_size":896,"num_attention_heads":14,"num_key_value_heads":2,"num_hidden_layers":2,"sliding_window":32`
		smollm3 = `{"model_type":"smollm3","num_hidden_layers":3`
	)
	for text, want := range map[string]string{
		mistral + `}`:                         "context 4096, no rope [], kv heads 8, head dim 128", // transformers: a window where a file says nothing
		mistral + `,"sliding_window":null}`:   "context 131072, no rope [], kv heads 8, head dim 128",
		mistral + `,"sliding_window":200000}`: "context 131072, no rope [], kv heads 8, head dim 128",
		qwen2 + `}`:                           "context 32768, no rope [], kv heads 2, head dim 64",
		qwen2 + `,"use_sliding_window":true}`: "context 32768, no rope [], kv heads 2, head dim 64", // from layer 28 on
		qwen2 + `,"use_sliding_window":true,"max_window_layers":1}`:                                "context 32, no rope [], kv heads 2, head dim 64",
		qwen2 + `,"use_sliding_window":true,"layer_types":["full_attention","sliding_attention"]}`: "context 32, no rope [], kv heads 2, head dim 64",
		qwen2 + `,"use_sliding_window":true,"max_window_layers":1,"sliding_window":null}`:          "context 32768, no rope [], kv heads 2, head dim 64",
		qwen2 + `,"sliding_window":0}`: "context 32768, no rope [], kv heads 2, head dim 64", // and not used
		`{"model_type":"qwen2","hidden_size":900,"num_attention_heads":14,"num_key_value_heads":null}`:          "context 32768, no rope [], kv heads 14, head dim 64",
		smollm3 + `,"sliding_window":64,"layer_types":["full_attention","sliding_attention","full_attention"]}`: "context 64, no rope",
		smollm3 + `,"sliding_window":64,"layer_types":["full_attention","full_attention","full_attention"]}`:    "context 32768, no rope",
		`{"model_type":"qwen3"}`:                 "context 32768, no rope [], kv heads 32, head dim 128",
		smollm3 + `}`:                            "context 32768, no rope [false false false], kv heads 4, head dim 128",
		smollm3 + `,"no_rope_layer_interval":2}`: "context 32768, no rope [false true false], kv heads 4, head dim 128",
		smollm3 + `,"no_rope_layers":[0,1,1],"use_sliding_window":true,"sliding_window":64}`: "context 64, no rope [true false false], kv heads 4, head dim 128",
		mistral + `,"sliding_window":0}`:                                              "sliding_window is 0; must be at least 1, or null",
		mistral + `,"sliding_window":"x"}`:                                            "sliding_window: json",
		qwen2 + `,"use_sliding_window":true,"layer_types":["full_attention"]}`:        "layer_types has 1 entries for 2 layers",
		qwen2 + `,"use_sliding_window":true,"layer_types":["full_attention","none"]}`: `layer_types[1] is "none"`,
		smollm3 + `,"no_rope_layers":[1]}`:                                            "no_rope_layers has 1 entries for 3 layers",
		`{"model_type":"qwen2","num_hidden_layers":1000000000}`:                       "num_hidden_layers is 1000000000",
		`{"model_type":"qwen2_moe"}`:                                                  `model_type "qwen2_moe" is not supported; "llama", "llama4_text", "mistral", "qwen2", "qwen3", "smollm3", "llama4" are`,
	} {
		c, err := model.ParseConfig([]byte(text))
		got := fmt.Sprintf("context %d, no rope %v, kv heads %d, head dim %d", c.MaxPositions, c.NoRope, c.KVHeads, c.HeadDim)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
