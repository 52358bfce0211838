package lang

import (
	"context"
	"errors"
	"slices"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// The stages below mirror the attributes of the real ones as the reference
// recipe writes them; they cannot run.

type noRun struct{}

func (noRun) Run(context.Context, *stage.Env) error { return errors.New("a fake stage cannot run") }

type dataSpec struct {
	noRun
	Source string `hcl:"source" doc:"Files or rows"`
}

func (*dataSpec) Check() error { return nil }

type synthSpec struct {
	noRun
	Teacher     stage.Teacher   `hcl:"teacher" doc:"Who answers"`
	Documents   *stage.Dataset  `hcl:"documents,optional" doc:"Documents to ask about"`
	Prompts     *stage.Dataset  `hcl:"prompts,optional" doc:"Prompts to answer"`
	Method      string          `hcl:"method" doc:"document_to_dialogue or preference_pairs"`
	Count       int             `hcl:"count" doc:"Rows to make"`
	SelfCorrect bool            `hcl:"self_correct,optional" doc:"Check and correct"`
	Extra       []stage.Dataset `hcl:"extra,optional" doc:"More documents"`
}

func (*synthSpec) Check() error { return nil }

type dedupSpec struct {
	noRun
	Input         stage.Dataset      `hcl:"input" doc:"Rows"`
	Threshold     float64            `hcl:"threshold,optional" doc:"Cosine from which rows are duplicates"`
	Embedder      string             `hcl:"embedder,optional" doc:"hash, static or model"`
	Options       map[string]string  `hcl:"options,optional" doc:"Free-form"`
	Weights       map[string]float64 `hcl:"weights,optional" doc:"Numbers by name"`
	Decontaminate *decontaminateSpec `hcl:"decontaminate,block" doc:"Drop rows that the evaluation asks for"`
	Note          string             `hcl:"note,optional" json:"-" doc:"Never part of the key"`
}

type decontaminateSpec struct {
	Against []stage.Dataset `hcl:"against" doc:"Sets to keep out"`
	Ngram   int             `hcl:"ngram,optional" doc:"Words that make an overlap"`
}

func (s *dedupSpec) Check() error {
	var errs []error
	if !(s.Threshold > 0 && s.Threshold <= 1) {
		errs = append(errs, stage.Fieldf("threshold", "is %v; must be above 0 and at most 1", s.Threshold))
	}
	if s.Decontaminate != nil && s.Decontaminate.Ngram < 1 {
		errs = append(errs, stage.Fieldf("decontaminate.ngram", "is %d; must be 1 or more", s.Decontaminate.Ngram))
	}
	if s.Embedder == "none" {
		errs = append(errs, errors.New("it compares nothing"))
	}
	return errors.Join(errs...)
}

type mixSpec struct {
	noRun
	Sources []mixSource `hcl:"source,block" doc:"What to mix"`
}

type mixSource struct {
	Name   string        `hcl:"name,label" doc:"Name in the report"`
	Input  stage.Dataset `hcl:"input" doc:"Rows"`
	Weight float64       `hcl:"weight" doc:"Share of the tokens"`
}

func (s *mixSpec) Check() error {
	for _, src := range s.Sources {
		if !(src.Weight > 0) {
			return stage.Fieldf(`source["`+src.Name+`"].weight`, "is %v; must be above 0", src.Weight)
		}
	}
	return nil
}

type packSpec struct {
	noRun
	Input  stage.Dataset `hcl:"input" doc:"Rows"`
	Model  stage.Model   `hcl:"model" doc:"Tokenizer and chat template"`
	SeqLen int           `hcl:"seq_len" doc:"Tokens in a row"`
}

func (*packSpec) Check() error { return nil }

type sftSpec struct {
	noRun
	Base    stage.Model         `hcl:"base" doc:"Model to tune"`
	Data    stage.PackedDataset `hcl:"data" doc:"Packed rows"`
	Epochs  float64             `hcl:"epochs,optional" doc:"Passes over the data"`
	LR      float64             `hcl:"lr,optional" doc:"Learning rate"`
	Adapter *adapterSpec        `hcl:"adapter,block" doc:"What is trained"`
}

type adapterSpec struct {
	Type    string   `hcl:"type,label" doc:"lora, dora or none"`
	Rank    int      `hcl:"rank,optional" doc:"Width of the update"`
	Alpha   float64  `hcl:"alpha,optional" doc:"Scale of the update"`
	Targets []string `hcl:"targets,optional" doc:"Layers"`
}

func (s *sftSpec) Check() error {
	if s.Adapter != nil && (s.Adapter.Rank < 1 || s.Adapter.Rank > 4096) {
		return stage.Fieldf("adapter.rank", "is %d; must be between 1 and 4096, usually 8 to 64", s.Adapter.Rank)
	}
	return nil
}

// Tunes implements stage.Tuner.
func (s *sftSpec) Tunes() (base stage.Model, says, all bool) {
	return s.Base, s.Adapter != nil, s.Adapter != nil && s.Adapter.Type == "none"
}

type dpoSpec struct {
	noRun
	Base stage.Model   `hcl:"base" doc:"Model to tune"`
	Data stage.Dataset `hcl:"data" doc:"Pairs"`
	Loss string        `hcl:"loss,optional" doc:"sigmoid, ipo, hinge or orpo"`
	Beta float64       `hcl:"beta,optional" doc:"Strength of the reference"`
}

func (*dpoSpec) Check() error { return nil }

type evalSpec struct {
	noRun
	Model  stage.Model  `hcl:"model" doc:"Model to judge"`
	Suites []suiteSpec  `hcl:"suite,block" doc:"Questions"`
	Needle *needleSpec  `hcl:"needle,block" doc:"Needle in a haystack"`
	Gates  []stage.Gate `hcl:"gate,block" json:"-" doc:"Conditions"`
}

type suiteSpec struct {
	Name string        `hcl:"name,label" doc:"Name of the metrics"`
	Data stage.Dataset `hcl:"data" doc:"Questions"`
}

type needleSpec struct {
	Lengths []int     `hcl:"lengths" doc:"Tokens"`
	Depths  []float64 `hcl:"depths" doc:"0 is the start"`
}

func (*evalSpec) Check() error { return nil }

func (s *evalSpec) Measures() map[string][]string {
	known := map[string][]string{}
	for _, u := range s.Suites {
		known[u.Name] = []string{"acc", "acc_norm", "nll"}
	}
	return known
}

type selectSpec struct {
	noRun
	From   stage.Candidates `hcl:"from" doc:"A swept eval"`
	Metric string           `hcl:"metric" doc:"What to compare"`
}

func (*selectSpec) Check() error { return nil }

func (s *selectSpec) Decides() (field, metric string, of []stage.Metrics) {
	for _, c := range s.From {
		of = append(of, c.Metrics)
	}
	return "metric", s.Metric, of
}

type exportSpec struct {
	noRun
	Model   stage.Model `hcl:"model" doc:"Model to write"`
	Formats []string    `hcl:"formats" doc:"peft, safetensors or gguf:TYPE"`
}

func (*exportSpec) Check() error { return nil }

// UsesAdapter implements stage.AdapterUser.
func (s *exportSpec) UsesAdapter() (field string, of stage.Model) {
	if slices.Contains(s.Formats, "peft") {
		field = "formats"
	}
	return field, s.Model
}

func fakeKinds() []stage.Kind {
	dataset := []stage.Output{{Name: "dataset", Type: artifact.Dataset}}
	packed := []stage.Output{{Name: "dataset", Type: artifact.Dataset, Rows: artifact.PackedRows}}
	trained := []stage.Output{{Name: "model", Type: artifact.Model}, {Name: "metrics", Type: artifact.Metrics}}
	return []stage.Kind{
		{Name: "data", Outputs: []stage.Output{{Type: artifact.Dataset}}, // rows of any kind, for all that is known
			New: func() stage.Stage { return &dataSpec{} }},
		{Name: "synth", Outputs: dataset, New: func() stage.Stage { return &synthSpec{} }},
		{Name: "dedup", Outputs: []stage.Output{{Name: "dataset", Type: artifact.Dataset, Rows: artifact.PlainRows}, {Name: "rejects", Type: artifact.Dataset, Rows: artifact.DropRows}},
			New: func() stage.Stage { return &dedupSpec{Threshold: 0.95, Embedder: "hash"} }},
		{Name: "mix", Outputs: dataset, New: func() stage.Stage { return &mixSpec{} }},
		{Name: "pack", Outputs: packed, New: func() stage.Stage { return &packSpec{} }},
		{Name: "sft", Outputs: trained, Compute: true, New: func() stage.Stage { return &sftSpec{Epochs: 1, LR: 1e-4} }},
		{Name: "dpo", Outputs: trained, Compute: true, New: func() stage.Stage { return &dpoSpec{Loss: "sigmoid", Beta: 0.1} }},
		{Name: "eval", Outputs: []stage.Output{{Name: "metrics", Type: artifact.Metrics}, {Name: "model", Type: artifact.Model, Alias: "model"}},
			New: func() stage.Stage { return &evalSpec{} }},
		{Name: "select", Outputs: []stage.Output{{Name: "model", Type: artifact.Model}}, New: func() stage.Stage { return &selectSpec{} }},
		{Name: "export", Outputs: []stage.Output{{Name: "files", Type: artifact.File}}, New: func() stage.Stage { return &exportSpec{} }},
	}
}
