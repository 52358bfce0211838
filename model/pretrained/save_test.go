package pretrained_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pipe/model/gguf"
	"pipe/model/pretrained"
	"pipe/tensor"
)

// same opens dir and holds what it says of text against m.
func same(t *testing.T, dir string, m *pretrained.Model) {
	t.Helper()
	got := open(t, dir)
	if got.BOS != m.BOS || got.PAD != m.PAD || !slices.Equal(got.EOS, m.EOS) || got.TemplateSource != m.TemplateSource || render(t, got) != render(t, m) {
		t.Errorf("bos %d, pad %d, eos %v, template %q", got.BOS, got.PAD, got.EOS, got.TemplateSource)
	}
	if a, b := got.Tokenizer.Encode("ab<end> a"), m.Tokenizer.Encode("ab<end> a"); !slices.Equal(a, b) {
		t.Errorf("encodes %v, was %v", a, b)
	}
}

func TestSaveTokenizer(t *testing.T) {
	src := checkpoint(t, files())
	m := open(t, src)
	to := checkpoint(t, map[string]string{"config.json": config})
	if err := m.SaveTokenizer(to); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "generation_config.json"} {
		a, err1 := os.ReadFile(filepath.Join(src, name))
		b, err2 := os.ReadFile(filepath.Join(to, name))
		if err1 != nil || err2 != nil || string(a) != string(b) {
			t.Errorf("%s changed: %v, %v", name, err1, err2)
		}
	}
	same(t, to, m)
}

// TestSaveReplacedTemplate: the replacement goes with the model.
func TestSaveReplacedTemplate(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "mine.jinja")
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := open(t, checkpoint(t, files()), pretrained.WithTemplate(mine))
	to := checkpoint(t, map[string]string{"config.json": config})
	if err := m.SaveTokenizer(to); err != nil {
		t.Fatal(err)
	}
	same(t, to, m)
}

func TestSaveFromGGUF(t *testing.T) {
	dir := open(t, checkpoint(t, files()))
	path := filepath.Join(t.TempDir(), "m.gguf")
	c := gguf.Checkpoint{Config: dir.Config, Weights: dir.Weights, TokenizerJSON: dir.TokenizerJSON, ChatTemplate: dir.TemplateSource}
	if err := gguf.Export(path, c, tensor.F32); err != nil {
		t.Fatal(err)
	}
	m := open(t, path)
	to := checkpoint(t, map[string]string{"config.json": config})
	if err := m.SaveTokenizer(to); err != nil {
		t.Fatal(err)
	}
	same(t, to, m)
}

// A shared template stands in both files; of tokenizer_config.json nothing else
// changes.
func TestShareTemplate(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "mine.jinja")
	if err := os.WriteFile(mine, []byte("{{ '<b>' }}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const said = `"{{ '<b>' }}\n"`
	for name, c := range map[string]struct {
		config, jinja string // of the directory
		replace       bool
		want          string // of tokenizer_config.json
	}{
		"replaced":       {"{\n \"z\": 1.50,\n \"chat_template\" :\t\"old\" ,\n \"a\": {\"chat_template\": \"x\"}\n}\n", "", true, "{\n \"z\": 1.50,\n \"chat_template\" :\t" + said + " ,\n \"a\": {\"chat_template\": \"x\"}\n}\n"},
		"a list":         {`{"chat_template":[{"name":"default","template":"old"}],"a":[1]}`, "", true, `{"chat_template":` + said + `,"a":[1]}`},
		"null":           {`{"a":1,"chat_template":null}`, "", true, `{"a":1,"chat_template":` + said + `}`},
		"none":           {"{\n  \"a\": {}\n}\n", "", true, "{\n  \"a\": {},\n  \"chat_template\": " + said + "\n}\n"},
		"empty":          {"{ }", "", true, `{"chat_template": ` + said + ` }`},
		"contradicting":  {`{"chat_template":"old"}`, "{{ '<b>' }}\n", false, `{"chat_template":` + said + `}`},
		"agreeing":       {`{"chat_template":"{{ '<b>' }}\u000a"}`, "{{ '<b>' }}\n", false, `{"chat_template":"{{ '<b>' }}\u000a"}`},
		"in a file only": {`{"a":1}`, "{{ '<b>' }}\n", false, `{"a":1}`},
		"of Llama":       {`{"tokenizer_class": "LlamaTokenizerFast","chat_template":"own"}`, "", false, `{"tokenizer_class": "PreTrainedTokenizerFast","chat_template":"own"}`},
		"of CodeLlama":   {`{"tokenizer_class":"CodeLlamaTokenizer"}`, "", true, `{"tokenizer_class":"PreTrainedTokenizerFast","chat_template": ` + said + `}`},
		"of others":      {`{"tokenizer_class":"GPT2TokenizerFast","a":{"tokenizer_class":"LlamaTokenizer"}}`, "", false, `{"tokenizer_class":"GPT2TokenizerFast","a":{"tokenizer_class":"LlamaTokenizer"}}`},
		"its own":        {`{"chat_template":"own"}`, "", false, `{"chat_template":"own"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := files()
			f["tokenizer_config.json"] = c.config
			if c.jinja != "" {
				f["chat_template.jinja"] = c.jinja
			}
			var opts []pretrained.Option
			if c.replace {
				opts = append(opts, pretrained.WithTemplate(mine))
			}
			m := open(t, checkpoint(t, f), opts...)
			m.ShareTemplate()
			to := checkpoint(t, map[string]string{"config.json": config})
			if err := m.SaveTokenizer(to); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(to, "tokenizer_config.json"))
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
			if os.Remove(filepath.Join(to, "chat_template.jinja")); c.replace {
				same(t, to, m)
			}
		})
	}
}

// Whoever reads generation_config.json learns where a turn ends; nothing else of it
// changes.
func TestShareEndOfTurn(t *testing.T) {
	for said, want := range map[string]string{
		"{\n \"eos_token_id\" : 256,\n \"top_p\": 0.90\n}": "{\n \"eos_token_id\" : [256,258],\n \"top_p\": 0.90\n}",
		`{"eos_token_id":[7,256]}`:                         `{"eos_token_id":[7,256,258]}`,
		`{"eos_token_id": null}`:                           `{"eos_token_id": [256,258]}`,
		`{"top_k":5}`:                                      `{"top_k":5,"eos_token_id": [256,258]}`,
		`{"eos_token_id":[258]}`:                           `{"eos_token_id":[258]}`,
		"":                                                 "{\n  \"bos_token_id\": 256,\n  \"eos_token_id\": [\n    256,\n    258\n  ],\n  \"pad_token_id\": 256\n}\n",
	} {
		src := document(t, "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}")
		if said != "" {
			if err := os.WriteFile(filepath.Join(src, "generation_config.json"), []byte(said), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m := open(t, src)
		m.ShareTemplate()
		to := t.TempDir()
		if err := m.SaveTokenizer(to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(to, "generation_config.json")); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v\nwant %s", said, got, err, want)
		}
	}
}
