package export

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// A card is the model card: what the model is and how it was made.
type card struct {
	name, base, revision string
	quantized            string // how the base was quantised when it was loaded; "": not
	model                artifact.Digest
	settings             map[string]any    // of the adapter
	extra                map[string]string // further entries
	training             []artifact.Training
	data                 []dataset
	metrics              []artifact.MetricsFile
}

type dataset struct {
	digest artifact.Digest
	rows   int64
}

func (s *spec) card(env *stage.Env, src *source) (*card, error) {
	c := &card{
		name: s.Name, base: src.base, revision: src.revision, model: s.Model.Digest,
		settings: src.settings, extra: s.Card, training: src.training, quantized: src.quantized,
	}
	for _, d := range s.Data {
		a, err := env.Store.Open(d.Ref)
		if err != nil {
			return nil, fmt.Errorf("data %s: %w", d.Ref, err)
		}
		c.data = append(c.data, dataset{d.Digest, a.Count()})
	}
	for _, m := range s.Metrics {
		a, err := env.Store.Open(m.Ref)
		if err != nil {
			return nil, fmt.Errorf("metrics %s: %w", m.Ref, err)
		}
		var f artifact.MetricsFile
		if err := artifact.ReadJSON(a, artifact.MetricsName, &f); err != nil {
			return nil, fmt.Errorf("metrics %s: %w", m.Ref, err)
		}
		c.metrics = append(c.metrics, f)
	}
	return c, nil
}

// usage says how each family is loaded.
var usage = map[string]string{
	"peft":        "PEFT loads this directory over the base model:\n\n```python\nmodel = peft.PeftModel.from_pretrained(base, \"peft\")\n```\n",
	"safetensors": "transformers, vLLM and others load this directory as a complete model; the adapter, if there was one, is merged into it.\n",
	"bnb":         "transformers loads this directory with bitsandbytes, the linear layers in 4 bits (NF4); the adapter, if there was one, was merged before they were quantised.\n",
	"gguf":        "llama.cpp and programs built on it load these files; the adapter, if there was one, is merged into them. Chat template and tokenizer are inside.\n",
}

var library = map[string]string{"peft": "peft", "safetensors": "transformers", "bnb": "transformers", "gguf": "gguf"}

// render writes the card of one family of formats, in the form of the hub:
// YAML between dashes, then Markdown.
func (c *card) render(family string) []byte {
	b := &bytes.Buffer{}
	fmt.Fprintf(b, "---\nlibrary_name: %s\npipeline_tag: text-generation\nbase_model: %q\ntags:\n- pipe\n", library[family], c.base)
	if c.settings != nil {
		fmt.Fprintf(b, "- %s\n", c.method())
	}
	fmt.Fprintf(b, "---\n\n# %s\n\n%s\n", c.name, usage[family])
	if family == "peft" && c.settings["use_dora"] == true {
		b.WriteString("The adapter is a DoRA adapter, which vLLM and llama.cpp do not load; for them, export merged safetensors or GGUF.\n\n")
	}
	b.WriteString("## How it was made\n\n| | |\n|---|---|\n")
	row := func(k string, v any) { fmt.Fprintf(b, "| %s | %v |\n", cell(k), cell(fmt.Sprint(v))) }
	row("base model", c.base)
	if c.revision != "" {
		row("revision of the base", c.revision)
	}
	if c.quantized != "" {
		row("base quantised to", c.quantized)
	}
	if !c.model.IsZero() {
		row("model", c.model)
	}
	if c.settings != nil {
		row("method", c.method())
		for _, k := range []string{"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"} {
			if v, ok := c.settings[k]; ok {
				row(k, join(v))
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.extra)) {
		row(k, c.extra[k])
	}
	for i, t := range c.training {
		fmt.Fprintf(b, "\n### Stage %d: %s\n\n| | |\n|---|---|\n", i+1, t.Kind)
		for _, k := range slices.Sorted(maps.Keys(t.Settings)) {
			row(k, t.Settings[k])
		}
	}
	if len(c.data) > 0 {
		b.WriteString("\n## Data\n\n| digest | rows |\n|---|---|\n")
		for _, d := range c.data {
			fmt.Fprintf(b, "| %s | %d |\n", d.digest, d.rows)
		}
	}
	c.results(b)
	return b.Bytes()
}

func (c *card) method() string {
	if c.settings["use_dora"] == true {
		return "dora"
	}
	return "lora"
}

// results lists what was measured, with what the base model scored.
func (c *card) results(b *bytes.Buffer) {
	if len(c.metrics) == 0 {
		return
	}
	b.WriteString("\n## Results\n\n| metric | items | value | standard error | base model |\n|---|---|---|---|---|\n")
	for _, f := range c.metrics {
		for _, name := range slices.Sorted(maps.Keys(f.Metrics)) {
			m, base := f.Metrics[name], ""
			if v, ok := f.Baseline[name]; ok {
				base = fmt.Sprintf("%.4g", v.Value)
			}
			fmt.Fprintf(b, "| %s | %d | %.4g | %.2g | %s |\n", cell(name), m.N, m.Value, m.Stderr, base)
		}
	}
}

// cell keeps text within its cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "\r", " ").Replace(s)
}

func join(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	parts := make([]string, len(list))
	for i, x := range list {
		parts[i] = fmt.Sprint(x)
	}
	return strings.Join(parts, ", ")
}
