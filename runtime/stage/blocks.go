package stage

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"pipe/runtime/artifact"
	"pipe/tensor"
)

// A ModelBlock is the configuration of a model block.
type ModelBlock struct {
	Source       string                     `hcl:"source" doc:"hf://org/name@rev, ./dir with config.json and safetensors, ./file.gguf, or embedded://tiny"`
	ChatTemplate string                     `hcl:"chat_template,optional" doc:"Path of a Jinja chat template that replaces the model's own"`
	TemplateVars map[string]json.RawMessage `hcl:"template_vars,optional" doc:"Values of variables of the chat template where nothing else gives them, such as { enable_thinking = false }: strings, numbers and booleans"`
	Quantize     string                     `hcl:"quantize,optional" doc:"\"nf4\" keeps the weights of the linear layers in 4 bits, as bitsandbytes does for QLoRA; they cannot be trained, adapters over them can"`
}

// Check implements the half of Stage that a model block has.
func (m *ModelBlock) Check() error {
	var errs []error
	if m.Source == "" {
		errs = append(errs, Fieldf("source", "is empty; name a hub id (hf://org/name), a directory, a .gguf file or embedded://tiny"))
	}
	if m.Quantize != "" && m.Quantize != "nf4" {
		errs = append(errs, Fieldf("quantize", "is %q; must be \"nf4\" or left out", m.Quantize))
	}
	return errors.Join(errs...)
}

// A TeacherConfig is the configuration of a teacher block. Fields that cannot
// change an answer are not part of the key.
type TeacherConfig struct {
	Provider    string                     `hcl:"provider" doc:"openai (any OpenAI-compatible endpoint), local (a model in this process) or journal (replay only)"`
	Endpoint    string                     `hcl:"endpoint,optional" json:"-" doc:"Base URL for openai, such as http://gpu-box:8000/v1"`
	APIKeyEnv   string                     `hcl:"api_key_env,optional" json:"-" doc:"Name of the environment variable that holds the API key; the value is never stored"`
	ModelID     string                     `hcl:"model_id,optional" doc:"Model name sent to the endpoint (openai) or recorded in the journal (journal)"`
	Model       *Model                     `hcl:"model,optional" doc:"The model block to run (local)"`
	Precision   string                     `hcl:"precision,optional" doc:"Of products with the model's matrices (local, and journal for what it recorded): f32, the default; bf16, which rounds both operands to bfloat16 and adds in f32: faster where the processor has instructions for it; or fp8, which rounds those of linear layers to 8 bits where there are many rows, and does the rest as bf16: for GPUs of compute capability 8.9 or newer, and slow on processors"`
	Temperature float64                    `hcl:"temperature,optional" doc:"Sampling temperature; 0 is greedy"`
	TopP        float64                    `hcl:"top_p,optional" doc:"Nucleus sampling: keep the smallest set of tokens with this total probability"`
	TopK        int                        `hcl:"top_k,optional" doc:"Keep this many most likely tokens; 0 keeps all (not every openai endpoint knows it)"`
	MinP        float64                    `hcl:"min_p,optional" doc:"Keep tokens at least this likely relative to the most likely; 0 keeps all (not every openai endpoint knows it)"`
	Penalty     float64                    `hcl:"repetition_penalty,optional" doc:"Divide the positive and multiply the negative logits of tokens seen before by this; 1 changes nothing (not every openai endpoint knows it)"`
	MaxTokens   int                        `hcl:"max_tokens,optional" doc:"Longest answer, in tokens"`
	Stop        []string                   `hcl:"stop,optional" doc:"Strings that end an answer"`
	ExtraBody   map[string]json.RawMessage `hcl:"extra_body,optional" doc:"Further members of the request to an openai endpoint, such as { reasoning_effort = \"high\" } or { chat_template_kwargs = { enable_thinking = false } }; they replace those that are sent anyway, and null leaves one out"`
	Concurrency int                        `hcl:"concurrency,optional" json:"-" doc:"Requests in flight at once"`
	Timeout     string                     `hcl:"timeout,optional" json:"-" doc:"Longest wait for one answer, such as 60s"`
	Retries     int                        `hcl:"retries,optional" json:"-" doc:"How often a failed request is tried again, with exponential backoff honouring Retry-After"`
	Journal     string                     `hcl:"journal,optional" json:"-" doc:"File of recorded answers to replay from; answers that are not in it are asked for, except with provider journal. Its content is part of what a result depends on, its name is not"`

	BudgetUSD    *float64 `hcl:"budget_usd,optional" json:"-" doc:"What one run may pay this teacher, in US dollars at the prices below; 0: answers from journals alone. A run that has used it up keeps everything, exits with code 4, and goes on when it is started again"`
	BudgetTokens *int64   `hcl:"budget_tokens,optional" json:"-" doc:"The same in tokens, of prompts and answers together"`
	InputPrice   float64  `hcl:"usd_per_million_input_tokens,optional" json:"-" doc:"Price of prompts"`
	OutputPrice  float64  `hcl:"usd_per_million_output_tokens,optional" json:"-" doc:"Price of answers"`
}

// NewTeacherConfig returns the defaults.
func NewTeacherConfig() *TeacherConfig {
	return &TeacherConfig{Temperature: 0.7, TopP: 1, Penalty: 1, MaxTokens: 512, Concurrency: 8, Timeout: "120s", Retries: 5}
}

// Check reports what is wrong with the configuration by itself.
func (t *TeacherConfig) Check() error {
	var errs []error
	bad := func(field, format string, args ...any) { errs = append(errs, Fieldf(field, format, args...)) }
	switch t.Provider {
	case "openai":
		if t.Endpoint == "" {
			bad("endpoint", "is needed by provider \"openai\"; give the base URL, such as \"http://localhost:8000/v1\"")
		}
		if t.ModelID == "" {
			bad("model_id", "is needed by provider \"openai\"; give the name the endpoint knows the model by")
		}
	case "local":
		if t.Model == nil {
			bad("model", "is needed by provider \"local\"; refer to a model block, such as model.base")
		}
	case "journal":
		if t.Journal == "" {
			bad("journal", "is needed by provider \"journal\"; give the file of recorded answers")
		}
		if t.ModelID == "" && t.Model == nil {
			bad("model_id", "is needed by provider \"journal\"; give the name of the model that was recorded")
		}
	default:
		bad("provider", "is %q; must be \"openai\", \"local\" or \"journal\"", t.Provider)
	}
	if t.Precision != "" && t.Provider == "openai" {
		bad("precision", "is not used by provider \"openai\"; remove it")
	} else if t.Precision != "" && !slices.Contains(tensor.Precisions(), t.Precision) {
		bad("precision", "is %q; must be one of %q", t.Precision, tensor.Precisions())
	}
	if !(t.Temperature >= 0 && t.Temperature <= 2) {
		bad("temperature", "is %v; must be between 0 and 2", t.Temperature)
	}
	if !(t.TopP > 0 && t.TopP <= 1) {
		bad("top_p", "is %v; must be above 0 and at most 1", t.TopP)
	}
	if t.TopK < 0 {
		bad("top_k", "is %d; must be 0 (all tokens) or more", t.TopK)
	}
	if !(t.MinP >= 0 && t.MinP <= 1) {
		bad("min_p", "is %v; must be between 0 and 1", t.MinP)
	}
	if !(t.Penalty > 0 && t.Penalty <= 10) {
		bad("repetition_penalty", "is %v; must be above 0 and at most 10, usually 1 to 1.3", t.Penalty)
	}
	if t.MaxTokens < 1 || t.MaxTokens > 1<<20 {
		bad("max_tokens", "is %d; must be between 1 and 1048576", t.MaxTokens)
	}
	if len(t.ExtraBody) > 0 && t.Provider == "local" {
		bad("extra_body", "is not used by provider \"local\"; remove it, and give variables of the chat template in template_vars of the model block")
	}
	for _, name := range []string{"model", "messages", "stream", "n"} {
		if _, ok := t.ExtraBody[name]; ok {
			bad("extra_body", "sets %s, which is not open to it; remove that", name)
		}
	}
	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		if v, ok := t.ExtraBody[name]; ok && string(v) != "null" && string(v) != strconv.Itoa(t.MaxTokens) {
			bad("extra_body", "sets %s to %s; budgets count with the attribute max_tokens = %d: set both alike", name, v, t.MaxTokens)
		}
	}
	if t.Concurrency < 1 || t.Concurrency > 4096 {
		bad("concurrency", "is %d; must be between 1 and 4096", t.Concurrency)
	}
	if t.Retries < 0 || t.Retries > 100 {
		bad("retries", "is %d; must be between 0 and 100", t.Retries)
	}
	if !(t.InputPrice >= 0) {
		bad("usd_per_million_input_tokens", "is %v; must be 0 or more", t.InputPrice)
	}
	if !(t.OutputPrice >= 0) {
		bad("usd_per_million_output_tokens", "is %v; must be 0 or more", t.OutputPrice)
	}
	if b := t.BudgetUSD; b != nil && !(*b >= 0) {
		bad("budget_usd", "is %v; must be 0 or more", *b)
	} else if b != nil && t.InputPrice == 0 && t.OutputPrice == 0 {
		bad("budget_usd", "needs the price of tokens; give usd_per_million_input_tokens and usd_per_million_output_tokens")
	}
	if b := t.BudgetTokens; b != nil && *b < 0 {
		bad("budget_tokens", "is %d; must be 0 or more", *b)
	}
	if d, err := time.ParseDuration(t.Timeout); err != nil || d <= 0 {
		bad("timeout", "is %q; must be a duration such as \"60s\"", t.Timeout)
	}
	return errors.Join(errs...)
}

// marshalTeacher is the key's view of a teacher's attributes: what can change an
// answer. Who serves the answers (openai, local, journal) cannot; what a journal
// says can, and the runtime adds its content to the key.
func marshalTeacher(c *TeacherConfig) ([]byte, error) {
	if c == nil {
		return []byte("null"), nil
	}
	v := struct {
		ModelID     string           `json:"model_id,omitempty"`
		Model       *artifact.Digest `json:"model,omitempty"`
		Precision   string           `json:"precision,omitempty"` // "" for f32, as before there was one
		Temperature float64          `json:"temperature"`
		TopP        float64          `json:"top_p"`
		TopK        int              `json:"top_k"`
		MinP        float64          `json:"min_p,omitempty"`
		Penalty     float64          `json:"repetition_penalty,omitempty"` // 0 for 1, as before there was one
		MaxTokens   int              `json:"max_tokens"`
		Stop        []string         `json:"stop,omitempty"`

		ExtraBody map[string]json.RawMessage `json:"extra_body,omitempty"`
	}{ExtraBody: c.ExtraBody, ModelID: c.ModelID, Temperature: c.Temperature, TopP: c.TopP, TopK: c.TopK, MinP: c.MinP, MaxTokens: c.MaxTokens, Stop: c.Stop}
	if c.Penalty != 1 {
		v.Penalty = c.Penalty
	}
	if dt := tensor.Precision(c.Precision); dt != tensor.F32 {
		v.Precision = dt.String()
	}
	if c.Model != nil {
		v.Model = &c.Model.Digest
	}
	return json.Marshal(v)
}
