package model_test

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"pipe/model"
)

const llama32 = `{"model_type":"llama","vocab_size":128256,"hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"rms_norm_eps":1e-5,"max_position_embeddings":131072,
"tie_word_embeddings":true,"rope_theta":500000.0,"bos_token_id":128000,"eos_token_id":[128001,128008,128009],
"rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,"rope_type":"llama3"}}`

func TestParseConfig(t *testing.T) {
	c, err := model.ParseConfig([]byte(llama32))
	if err != nil {
		t.Fatal(err)
	}
	if c.KVHeads != 8 || c.HeadDim != 64 || !c.Tied || c.BOS != 128000 || len(c.EOS) != 3 || c.PAD != -1 || c.Rope.Factor != 32 {
		t.Errorf("%+v", c)
	}
	data, err := c.JSON("float32")
	if err != nil {
		t.Fatal(err)
	}
	back, err := model.ParseConfig(data)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("written and read again: %+v, %v; want %+v", back, err, c)
	}
	v5 := strings.Replace(strings.Replace(llama32, `"rope_theta":500000.0,`, "", 1), `"rope_scaling":{`, `"rope_parameters":{"rope_theta":500000.0,`, 1)
	if c5, err := model.ParseConfig([]byte(v5)); err != nil || !reflect.DeepEqual(c5, c) {
		t.Errorf("transformers 5 form: %+v, %v", c5, err)
	}
	d, err := model.ParseConfig([]byte(`{"model_type":"llama"}`))
	if err != nil || d.Hidden != 4096 || d.KVHeads != 32 || d.HeadDim != 128 || d.BOS != 1 || d.EOS[0] != 2 || d.NormEps != 1e-6 {
		t.Errorf("defaults: %+v, %v", d, err)
	}
	for text, want := range map[string]bool{ // who has biases where the file says so
		`"llama"`: true, `"llama4_text"`: true, `"qwen3"`: true, `"smollm3"`: true, `"mistral"`: false, `"qwen2"`: false,
	} {
		if c, err := model.ParseConfig([]byte(`{"attention_bias":true,"model_type":` + text + `}`)); err != nil || c.AttnBias != want {
			t.Errorf("%s: biases %t, %v", text, c.AttnBias, err)
		}
	}
}

// TestRopeSettings: of two forms rope_scaling counts, as in transformers.
func TestRopeSettings(t *testing.T) {
	const llama3 = `{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}`
	scaled := model.Rope{Theta: 300, Type: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, OriginalMaxPosition: 64}
	for text, want := range map[string]model.Rope{
		`"rope_theta":300`: {Theta: 300, Type: "default"},
		`"rope_theta":300,"rope_scaling":{"type":"linear","factor":4}`:                                                          {Theta: 300, Type: "linear", Factor: 4},
		`"rope_parameters":{"rope_type":"linear","factor":2.5,"rope_theta":300}`:                                                {Theta: 300, Type: "linear", Factor: 2.5},
		`"rope_theta":300,"rope_parameters":{"rope_type":"default","rope_theta":9},"rope_scaling":` + llama3:                    scaled,
		`"rope_theta":9,"rope_parameters":{"rope_type":"default","rope_theta":300},"rope_scaling":{}`:                           {Theta: 300, Type: "default"},
		`"rope_theta":9,"rope_parameters":` + llama3[:len(llama3)-1] + `,"rope_theta":300},"rope_scaling":null`:                 scaled,
		`"rope_theta":300,"original_max_position_embeddings":64,"rope_scaling":` + strings.Replace(llama3, ":64", ":32", 1):     scaled,
		`"rope_theta":300,"rope_parameters":` + llama3 + `,"rope_scaling":{"rope_type":"default"}`:                              {Theta: 300, Type: "default"},
		`"rope_parameters":{"rope_type":"default","rope_theta":300},"rope_scaling":{"rope_type":"linear","factor":2,"type":""}`: {Theta: 10000, Type: "linear", Factor: 2},
	} {
		c, err := model.ParseConfig([]byte(`{"model_type":"llama",` + text + `}`))
		if err != nil || !reflect.DeepEqual(c.Rope, want) {
			t.Errorf("%s: %+v, %v", text, c.Rope, err)
			continue
		}
		data, err := c.JSON("float32")
		if err != nil {
			t.Fatal(err)
		}
		if back, err := model.ParseConfig(data); err != nil || !reflect.DeepEqual(back.Rope, want) {
			t.Errorf("%s: written and read again: %+v, %v", text, back.Rope, err)
		}
	}
	plain := model.Config{HeadDim: 8, Rope: model.Rope{Theta: 10000}}
	c := plain
	c.Rope.Type, c.Rope.Factor = "linear", 4
	base := plain.InvFreq()
	for i, f := range c.InvFreq() {
		if f != base[i]/4 {
			t.Errorf("linear: frequency %d is %v, %v unscaled", i, f, base[i])
		}
	}
}

func TestParseConfigErrors(t *testing.T) {
	for _, x := range []struct{ from, to, want string }{
		{`"model_type":"llama"`, `"model_type":"mixtral"`, `model_type "mixtral" is not supported`},
		{`"model_type":"llama",`, ``, "model_type is missing"},
		{`"num_key_value_heads":8`, `"num_key_value_heads":5`, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"},
		{`"head_dim":64`, `"head_dim":63`, "head_dim is 63; must be even"},
		{`"hidden_size":2048`, `"hidden_size":2047`, "hidden_size 2047 is not a multiple"},
		{`"vocab_size":128256`, `"vocab_size":-1`, "vocab_size is -1"},
		{`"num_hidden_layers":16`, `"num_hidden_layers":1000000`, "at most 4096"},
		{`"rope_theta":500000.0`, `"rope_theta":0`, "rope_theta is 0; must be at least 1"},
		{`"rope_theta":500000.0`, `"rope_theta":1e-300`, "rope_theta is 1e-300"},
		{`"rope_theta":500000.0`, `"rope_theta":1e300`, "rope_theta is 1e+300"},
		{`"rope_theta":500000.0`, `"rope_theta":1e999`, "cannot unmarshal number 1e999"},
		{`"rope_theta":500000.0`, `"rope_theta":NaN`, "invalid character 'N'"},
		{`"factor":32.0`, `"factor":1e-300`, "factor 1e-300 must be at least 1"},
		{`"factor":32.0`, `"factor":-2`, "factor -2 must be at least 1"},
		{`"low_freq_factor":1.0`, `"low_freq_factor":0`, "low_freq_factor 0"},
		{`"high_freq_factor":4.0`, `"high_freq_factor":0.5`, "low at most high"},
		{`"original_max_position_embeddings":8192`, `"original_max_position_embeddings":-1`, "original_max_position_embeddings -1"},
		{`"rms_norm_eps":1e-5`, `"rms_norm_eps":0`, "rms_norm_eps is 0"},
		{`"num_key_value_heads":8`, `"num_key_value_heads":0`, "num_key_value_heads is 0"},
		{`"num_attention_heads":32`, `"num_attention_heads":0`, "num_attention_heads is 0"},
		{`"vocab_size":128256`, `"vocab_size":9223372036854775807`, "vocab_size is 9223372036854775807"},
		{`"vocab_size":128256`, `"vocab_size":1e3`, "cannot unmarshal number 1e3"},
		{`"head_dim":64`, `"head_dim":16777216`, "num_attention_heads × head_dim is"},
		{`[128001,128008,128009]`, `[128001,-3]`, "eos_token_id is -3"},
		{`"bos_token_id":128000`, `"bos_token_id":4294967297`, "bos_token_id"},
		{`"rope_type":"llama3"`, `"rope_type":"yarn"`, `rope_type "yarn" is not supported`},
		{`"factor":32.0,`, ``, "needs factor"},
		{`"rope_type":"llama3"`, `"rope_type":"linear","factor":0.5`, "factor is 0.5; must be between 1 and"},
		{`"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,"rope_type":"llama3"`, `"rope_type":"linear"`, `"linear" needs factor`},
		{`"vocab_size"`, `"quantization_config":{"quant_method":"gptq"},"vocab_size"`, `quant_method "gptq" is not supported`},
		{`"vocab_size"`, `"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true},"vocab_size"`, "without load_in_4bit"},
		{`"vocab_size"`, `"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"fp4"},"vocab_size"`, `"fp4" is not supported`},
		{`"vocab_size"`, `"hidden_act":"gelu","vocab_size"`, `hidden_act "gelu"`},
		{`"vocab_size"`, `"is_causal":false,"vocab_size"`, "is_causal is false"},
		{`"vocab_size"`, `"partial_rotary_factor":0.5,"vocab_size"`, "partial_rotary_factor 0.5 is not supported"},
		{`"factor":32.0`, `"partial_rotary_factor":0.25,"factor":32.0`, "rope_scaling: partial_rotary_factor 0.25 is not supported"},
		{`"rope_scaling":{`, `"rope_parameters":{"full_attention":{"rope_type":"default"}},"x":{`, "rope_parameters: settings of their own for layers of one kind"},
		{`"num_key_value_heads":8`, `"num_key_value_heads":"x"`, "num_key_value_heads: json"},
		{`{"model`, `{{"model`, "invalid character"},
		{`"bos_token_id":128000`, `"bos_token_id":"x"`, "bos_token_id"},
	} {
		text := strings.Replace(llama32, x.from, x.to, 1)
		if text == llama32 {
			t.Fatalf("%q is not in the text", x.from)
		}
		if _, err := model.ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: error %v, want one with %q", x.to, err, x.want)
		}
	}
}

// TestInvFreq holds the golden values of three released models.
func TestInvFreq(t *testing.T) {
	for _, x := range []struct {
		d, orig           int
		factor, low, high float64
		unscaled, full    int
		second, mid, last float64
	}{
		{64, 8192, 32, 1, 4, 15, 14, 0.663601238, 0.000429556797, 9.41830673e-08},
		{128, 8192, 8, 1, 4, 29, 29, 0.814617234, 0.000524846161, 3.06892599e-07},
		{128, 8192, 16, 1, 1, 35, 29, 0.814617234, 0.00141421356, 1.53446299e-07},
	} {
		plain := model.Config{HeadDim: x.d, Rope: model.Rope{Theta: 500000, Type: "default"}}
		c := plain
		c.Rope = model.Rope{Theta: 500000, Type: "llama3", Factor: x.factor, LowFreq: x.low, HighFreq: x.high, OriginalMaxPosition: x.orig}
		base, f := plain.InvFreq(), c.InvFreq()
		unscaled, full := 0, 0
		for i := range f {
			switch ratio := float64(base[i] / f[i]); {
			case ratio == 1:
				unscaled++
			case math.Abs(ratio/x.factor-1) < 1e-6:
				full++
			}
		}
		if unscaled != x.unscaled || full != x.full {
			t.Errorf("%+v: %d unscaled, %d fully scaled", x, unscaled, full)
		}
		for i, want := range map[int]float64{1: x.second, len(f) / 2: x.mid, len(f) - 1: x.last} {
			if !(math.Abs(float64(f[i])/want-1) < 1e-6) {
				t.Errorf("%+v: inv_freq[%d] = %v, want %v", x, i, f[i], want)
			}
		}
		// GGUF's divisors say the same.
		div := plain
		for i := range f {
			div.Rope.Divisors = append(div.Rope.Divisors, base[i]/f[i])
		}
		for i, v := range div.InvFreq() {
			if !(math.Abs(float64(v/f[i])-1) < 1e-6) {
				t.Errorf("with divisors inv_freq[%d] = %v, want %v", i, v, f[i])
			}
		}
	}
}

// TestFitRope: divisors, as GGUF has them, become the settings that they came from.
func TestFitRope(t *testing.T) {
	plain := model.Config{VocabSize: 8, Hidden: 8, Intermediate: 8, Layers: 1, Heads: 1, KVHeads: 1, HeadDim: 32, MaxPositions: 8, NormEps: 1e-5,
		BOS: -1, PAD: -1, Rope: model.Rope{Theta: 10000, Type: "default"}}
	base := plain.InvFreq()
	divided := func(f func(i int) float32) model.Config {
		c := plain
		for i := range base {
			c.Rope.Divisors = append(c.Rope.Divisors, f(i))
		}
		return c
	}
	for _, want := range []model.Rope{
		plain.Rope, {Theta: 10000, Type: "linear", Factor: 4},
		{Theta: 10000, Type: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, OriginalMaxPosition: 8192},
		{Theta: 10000, Type: "llama3", Factor: 32, LowFreq: 1, HighFreq: 4, OriginalMaxPosition: 1024},
	} {
		scaled := plain
		scaled.Rope = want
		f := scaled.InvFreq()
		data, err := divided(func(i int) float32 { return base[i] / f[i] }).JSON("float32")
		if err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		if c, err := model.ParseConfig(data); err != nil || !reflect.DeepEqual(c.Rope, want) {
			t.Errorf("%+v: written as %+v, %v", want, c.Rope, err)
		}
	}
	for _, f := range []func(int) float32{func(i int) float32 { return float32(1 + i) }, func(int) float32 { return 0.5 }} {
		if _, err := divided(f).JSON("float32"); err == nil || !strings.Contains(err.Error(), "cannot express the divisors") {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(llama32))
	f.Add([]byte(`{"model_type":"llama","eos_token_id":[1],"head_dim":0,"num_attention_heads":0}`))
	f.Add([]byte(`{"model_type":"llama","rope_theta":1e-300}`))
	f.Add([]byte(`{"model_type":"llama","rope_parameters":{"rope_type":"default"},"rope_scaling":{"type":"linear","factor":1e9}}`))
	f.Add([]byte(strings.Replace(llama32, `"factor":32.0`, `"factor":1e-300`, 1)))
	f.Add([]byte(`{"model_type":"qwen3","num_hidden_layers":3,"use_sliding_window":true,"sliding_window":9,"layer_types":["full_attention","sliding_attention","full_attention"]}`))
	f.Add([]byte(`{"model_type":"smollm3","num_hidden_layers":2,"no_rope_layers":[0,1],"num_key_value_heads":null,"sliding_window":null}`))
	f.Add([]byte(`{"model_type":"mistral","num_hidden_layers":1,"sliding_window":4096,"head_dim":128,"rope_parameters":{"sliding_attention":{}}}`))
	f.Add([]byte(`{"model_type":"llama4_text","num_hidden_layers":4,"moe_layers":[1],"no_rope_layers":[1,0,1,1],"attention_chunk_size":null,"attn_temperature_tuning":4}`))
	f.Add([]byte(`{"model_type":"llama4","text_config":{"num_hidden_layers":2,"interleave_moe_layer_step":2,"layer_types":["full_attention","chunked_attention"],"floor_scale":1e300}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := model.ParseConfig(data)
		if err != nil {
			return
		}
		freq := c.InvFreq()
		if n := len(freq); n != c.HeadDim/2 {
			t.Errorf("%d frequencies for heads of %d", n, c.HeadDim)
		}
		for i, v := range freq {
			if !(v >= 0 && v <= 1) {
				t.Fatalf("frequency %d is %v", i, v)
			}
		}
		data, err = c.JSON("float32")
		if err != nil {
			t.Fatal(err)
		}
		if back, err := model.ParseConfig(data); err != nil || back.Hidden != c.Hidden || back.Rope.Type != c.Rope.Type {
			t.Fatalf("written and read again: %+v, %v", back, err)
		}
	})
}
