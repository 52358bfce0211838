package pretrained_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/gguf"
	"pipe/model/pretrained"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/text/chat"
)

const config = `{"model_type":"llama","vocab_size":8,"hidden_size":4,"intermediate_size":8,"num_hidden_layers":1,
"num_attention_heads":2,"max_position_embeddings":16,"rms_norm_eps":1e-5,"tie_word_embeddings":true,"bos_token_id":4,"eos_token_id":5}`

const tokens = `{"version":"1.0","truncation":null,"padding":null,"added_tokens":[
{"id":4,"content":"<bos>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
{"id":5,"content":"<eos>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
{"id":6,"content":"<end>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"post_processor":null,"decoder":{"type":"ByteLevel"},
"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3},"merges":["a b"]}}`

const tokenizerConfig = `{"chat_template":"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}","bos_token":"<bos>","eos_token":{"content":"<end>"},"pad_token":null}`

func files() map[string]string {
	return map[string]string{
		"config.json": config, "tokenizer.json": tokens, "tokenizer_config.json": tokenizerConfig,
		"generation_config.json": `{"eos_token_id":[5,7],"pad_token_id":7}`,
	}
}

// checkpoint writes the files and weights that fit config.
func checkpoint(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var ts []safetensors.Tensor
	for name, w := range weights() {
		ts = append(ts, safetensors.Tensor{Name: name, DType: w.DType, Shape: w.Shape, Data: w.Data})
	}
	if err := safetensors.Write(filepath.Join(dir, safetensors.SingleName), ts, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func weights() model.Weights {
	w := model.Weights{}
	add := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		w[name] = model.Weight{DType: tensor.F32, Shape: shape, Data: make([]byte, 4*n)}
	}
	add("model.embed_tokens.weight", 8, 4)
	add("model.norm.weight", 4)
	l := "model.layers.0."
	add(l+"input_layernorm.weight", 4)
	add(l+"post_attention_layernorm.weight", 4)
	for _, p := range []string{"q", "k", "v", "o"} {
		add(l+"self_attn."+p+"_proj.weight", 4, 4)
	}
	add(l+"mlp.gate_proj.weight", 8, 4)
	add(l+"mlp.up_proj.weight", 8, 4)
	add(l+"mlp.down_proj.weight", 4, 8)
	return w
}

func open(t *testing.T, path string, opts ...pretrained.Option) *pretrained.Model {
	t.Helper()
	m, err := pretrained.Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func render(t *testing.T, m *pretrained.Model) string {
	t.Helper()
	if m.Template == nil {
		return "no template"
	}
	s, err := m.Template.Text(chat.Input{Messages: []chat.Message{{Role: "user", Content: "ab"}}, Special: m.Special})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOpenDirectory(t *testing.T) {
	m := open(t, checkpoint(t, files()))
	if m.Config.Hidden != 4 || m.BOS != 4 || m.PAD != 7 || !slices.Equal(m.EOS, []int32{5, 6, 7}) {
		t.Errorf("hidden %d, bos %d, pad %d, eos %v", m.Config.Hidden, m.BOS, m.PAD, m.EOS)
	}
	if got := render(t, m); got != "<bos>ab<end>" {
		t.Errorf("rendered %q", got)
	}
	if got := m.Tokenizer.Encode("<bos>ab a"); !slices.Equal(got, []int32{4, 2, 3, 0}) {
		t.Errorf("ids %v", got)
	}
	if !slices.Equal(m.Weights.Names(), weights().Names()) {
		t.Errorf("weights %v", m.Weights.Names())
	}
	want := map[string]string{"bos_token": "<bos>", "eos_token": "<end>"}
	if !maps.Equal(m.Special, want) {
		t.Errorf("special tokens %v", m.Special)
	}
	if string(m.TokenizerJSON) != tokens || !strings.HasPrefix(m.TemplateSource, "{{ bos_token }}") {
		t.Error("the sources are not those of the files")
	}
}

// TestTemplates: where a template may come from, the last one winning.
func TestTemplates(t *testing.T) {
	over := filepath.Join(t.TempDir(), "mine.jinja")
	if err := os.WriteFile(over, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	list := `{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"listed"}]}`
	for name, c := range map[string]struct {
		config, jinja string
		opts          []pretrained.Option
		want          string
	}{
		"none":       {config: `{}`, want: "no template"},
		"null":       {config: `{"chat_template":null}`, want: "no template"},
		"string":     {config: `{"chat_template":"s"}`, want: "s"},
		"list":       {config: list, want: "listed"},
		"file":       {config: list, jinja: "jinja", want: "jinja"},
		"overridden": {config: list, jinja: "jinja", opts: []pretrained.Option{pretrained.WithTemplate(over)}, want: "mine"},
		"not given":  {config: list, opts: []pretrained.Option{pretrained.WithTemplate("")}, want: "listed"},
	} {
		f := files()
		f["tokenizer_config.json"] = c.config
		if c.jinja != "" {
			f["chat_template.jinja"] = c.jinja
		}
		if got := render(t, open(t, checkpoint(t, f), c.opts...)); got != c.want {
			t.Errorf("%s: rendered %q, want %q", name, got, c.want)
		}
	}
}

// TestSpecialTokensMap: older directories name special tokens in a file of their own,
// which wins; newer ones, which list the added tokens, have it for older programs.
func TestSpecialTokensMap(t *testing.T) {
	const named = `"bos_token":"<bos>","eos_token":"<eos>"`
	for _, x := range []struct {
		config, specials string
		bos              int32
		eos              []int32 // beside 7 of generation_config.json and 5 of config.json
		want             map[string]string
	}{
		{`{}`, `{"eos_token":{"content":"<end>"},"pad_token":"<end>"}`, 4, []int32{5, 6, 7}, map[string]string{"eos_token": "<end>", "pad_token": "<end>"}},
		{`{` + named + `}`, `{"eos_token":"<end>","additional_special_tokens":["<end>"]}`, 4, []int32{5, 6, 7}, map[string]string{"bos_token": "<bos>", "eos_token": "<end>"}},
		{`{"bos_token":"","eos_token":""}`, `{"bos_token":"<end>","eos_token":"<eos>"}`, 6, []int32{5, 7}, map[string]string{"bos_token": "<end>", "eos_token": "<eos>"}},
		{`{` + named + `}`, `{}`, 4, []int32{5, 7}, map[string]string{"bos_token": "<bos>", "eos_token": "<eos>"}},
		{`{` + named + `,"added_tokens_decoder":{}}`, `{"eos_token":"<end>"}`, 4, []int32{5, 7}, map[string]string{"bos_token": "<bos>", "eos_token": "<eos>"}},
		{"", `{"eos_token":"<end>"}`, 4, []int32{5, 6, 7}, map[string]string{"eos_token": "<end>"}},
	} {
		f := files()
		if f["tokenizer_config.json"] = x.config; x.config == "" {
			delete(f, "tokenizer_config.json")
		}
		f["special_tokens_map.json"] = x.specials
		m := open(t, checkpoint(t, f))
		if m.BOS != x.bos || !slices.Equal(m.EOS, x.eos) || !maps.Equal(m.Special, x.want) {
			t.Errorf("%s and %s: bos %d, eos %v, named %v", x.config, x.specials, m.BOS, m.EOS, m.Special)
		}
	}
}

// TestBare: a directory without the optional files.
func TestBare(t *testing.T) {
	f := files()
	delete(f, "tokenizer_config.json")
	delete(f, "generation_config.json")
	m := open(t, checkpoint(t, f))
	if m.BOS != 4 || m.PAD != -1 || !slices.Equal(m.EOS, []int32{5}) || m.Template != nil {
		t.Errorf("bos %d, pad %d, eos %v", m.BOS, m.PAD, m.EOS)
	}
	if !maps.Equal(m.Special, map[string]string{"bos_token": "<bos>", "eos_token": "<eos>"}) {
		t.Errorf("special tokens %v", m.Special)
	}
}

// TestGGUF: the same model through a GGUF file.
func TestGGUF(t *testing.T) {
	dir := open(t, checkpoint(t, files()))
	path := filepath.Join(t.TempDir(), "m.gguf")
	c := gguf.Checkpoint{Name: "m", Config: dir.Config, Weights: dir.Weights, TokenizerJSON: dir.TokenizerJSON, ChatTemplate: dir.TemplateSource}
	if err := gguf.Export(path, c, tensor.F16); err != nil {
		t.Fatal(err)
	}
	m := open(t, path)
	if m.Config.VocabSize != 8 || m.BOS != 4 || !slices.Equal(m.EOS, []int32{5}) || render(t, m) != "<bos>ab<eos>" {
		t.Errorf("bos %d, eos %v, rendered %q", m.BOS, m.EOS, render(t, m))
	}
	for _, text := range []string{"ab a<end>b", "<bos>  abab"} {
		if a, b := m.Tokenizer.Encode(text), dir.Tokenizer.Encode(text); !slices.Equal(a, b) {
			t.Errorf("%q: %v by GGUF, %v by tokenizer.json", text, a, b)
		}
	}
}

func TestRefuses(t *testing.T) {
	for want, change := range map[string]func(f map[string]string){
		"has no config.json":                      func(f map[string]string) { delete(f, "config.json") },
		"has no tokenizer.json":                   func(f map[string]string) { delete(f, "tokenizer.json") },
		`model_type "mamba"`:                      func(f map[string]string) { f["config.json"] = `{"model_type":"mamba"}` },
		"tokenizer.json:":                         func(f map[string]string) { f["tokenizer.json"] = `{"model":{"type":"Unigram"}}` },
		"tokenizer_config.json: unexpected end":   func(f map[string]string) { f["tokenizer_config.json"] = "{" },
		"special_tokens_map.json: json":           func(f map[string]string) { f["special_tokens_map.json"] = "3" },
		"eos_token: json":                         func(f map[string]string) { f["tokenizer_config.json"] = `{"eos_token":3}` },
		`no template named "default"; it has ["`:  func(f map[string]string) { f["tokenizer_config.json"] = `{"chat_template":[{"name":"rag"}]}` },
		"tokenizer_config.json: chat_template":    func(f map[string]string) { f["tokenizer_config.json"] = `{"chat_template":3}` },
		"chat template of":                        func(f map[string]string) { f["chat_template.jinja"] = "{% if %}" },
		"chat_template.jinja":                     func(f map[string]string) { f["chat_template.jinja"] = "{% if %}" },
		"generation_config.json: eos_token_id -1": func(f map[string]string) { f["generation_config.json"] = `{"eos_token_id":-1}` },
		"generation_config.json: eos_token_id: j": func(f map[string]string) { f["generation_config.json"] = `{"eos_token_id":"x"}` },
		"generation_config.json: invalid":         func(f map[string]string) { f["generation_config.json"] = `x` },
		"special token id 8 is beyond the":        func(f map[string]string) { f["generation_config.json"] = `{"eos_token_id":8}` },
		"the embedding has 6 rows": func(f map[string]string) {
			f["config.json"] = strings.Replace(config, `"vocab_size":8`, `"vocab_size":6`, 1)
		},
	} {
		f := files()
		change(f)
		m, err := pretrained.Open(checkpoint(t, f))
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	dir := checkpoint(t, files())
	if err := os.Remove(filepath.Join(dir, safetensors.SingleName)); err != nil {
		t.Fatal(err)
	}
	m, err := pretrained.Open(dir) // a model yet to be trained
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Weights.Weight("model.norm.weight"); err == nil || !strings.Contains(err.Error(), "has neither model.safetensors") {
		t.Errorf("got %v", err)
	}
	m.Close()
	if _, err := pretrained.Open(filepath.Join(dir, "config.json")); err == nil || !strings.Contains(err.Error(), "not a GGUF file") {
		t.Errorf("got %v", err)
	}
	if _, err := pretrained.Open(checkpoint(t, files()), pretrained.WithTemplate("/no/such.jinja")); err == nil || !strings.Contains(err.Error(), "/no/such.jinja") {
		t.Errorf("got %v", err)
	}
	if !json.Valid([]byte(tokens)) {
		t.Error("the test's own tokenizer.json is no JSON")
	}
}
