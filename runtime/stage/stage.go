// Package stage is the contract between the runtime and the stages. It is
// small on purpose: a stage is a struct that HCL decodes into, plus Run.
package stage

import (
	"context"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/rs/zerolog"

	"pipe/runtime/artifact"
	"pipe/tensor"
)

// A Kind describes one kind of stage. Each stage package exports exactly one,
// as the variable Kind, and package stages lists them.
type Kind struct {
	Name    string       // the block type: sft "name" { ... }
	Doc     string       // the folder's README.md, embedded; pipe help NAME prints it
	Version int          // raised when the same spec would give different bytes
	Outputs []Output     // what other blocks may refer to as KIND.NAME.OUTPUT
	Compute bool         // Run uses Env.Backend: the backend's name is part of the key
	New     func() Stage // returns the zero configuration, holding every default
}

// An Output is one named result. An Output with an empty Name is the block
// itself: data "docs" {} is referred to as data.docs.
type Output struct {
	Name string
	Type artifact.Type
	Rows string // of a dataset: the type of its rows, such as artifact.PlainRows; "" when that is not known
	Doc  string
	// Alias names the handle attribute of the spec that this output is, passed
	// on unchanged (eval's model): Run does not create it.
	Alias string
}

// Words says what the output is: "model", "dataset of packed rows".
func (o Output) Words() string { return DatasetWords(o.Type, o.Rows) }

// DatasetWords is the type t in words, for a dataset with the type of its rows
// where they are not plain.
func DatasetWords(t artifact.Type, rows string) string {
	if t != artifact.Dataset || rows == "" || rows == artifact.PlainRows {
		return string(t)
	}
	return string(t) + " of " + artifact.RowWords(rows)
}

// A Stage is one configured step. Its concrete type is a pointer to a struct.
//
// Field tags are the block's language, read by package lang:
//
//	hcl:"name"            required attribute
//	hcl:"name,optional"   optional attribute; the value New left there is its default
//	hcl:"name,block"      nested block: *T at most one, []T any number
//	hcl:"name,label"      a label of a nested block (the struct holding it is the block)
//	hcl:"name,expr"       hcl.Expression kept unevaluated (gates)
//	doc:"..."             reference documentation: meaning, unit, range
//
// Field types: string, bool, int, int64, uint64, float64, []string, []int,
// []float64, map[string]string, pointers to these (nil: not given), and the
// handles [Dataset], [PackedDataset], [AnyDataset], [Model], [Metrics], [Teacher],
// [File], slices of them,
// [Candidates] and [Bindings]. Blocks named gate are []Gate `hcl:"gate,block" json:"-"`.
//
// The struct's JSON, with handles as content digests, is the pre-image of the
// cache key: a field that cannot change the result is tagged json:"-".
type Stage interface {
	// Check reports what is wrong with the spec by itself. It runs before
	// anything else does, touches no file, and may return a [FieldError] (or
	// several, joined by errors.Join) so that the message points at the attribute.
	Check() error

	// Run reads the artifacts its fields refer to and creates its outputs
	// through env. It returns promptly when ctx is cancelled. What it wrote
	// is kept only if it returns nil. It is a function of spec, inputs and
	// env.Seed alone.
	Run(ctx context.Context, env *Env) error
}

// A Defaulter is the struct of a nested block that is absent by default, or may
// be written any number of times, and whose attributes have defaults: New
// cannot hold them. SetDefaults, on the pointer, is called before the block is
// decoded.
type Defaulter interface{ SetDefaults() }

// A Maker is a Stage whose outputs are chosen by its spec. Its Kind's Outputs
// only tell of them.
type Maker interface {
	Stage
	// Outputs returns what others may refer to. It is called once the spec is
	// complete, before Check.
	Outputs() []Output
}

// A Measurer is a Stage that knows before it runs what it may measure. A gate on
// anything else is an error before anything runs.
type Measurer interface {
	Stage
	// Measures returns what may stand behind the dot of a metric's name, by what
	// stands in front: "acc" by "qa" for "qa.acc"; none when that is not known. It
	// is called once the spec is complete.
	Measures() map[string][]string
}

// A Decider is a Stage that decides by one metric of others. One that a [Measurer]
// among them does not measure is an error before anything runs.
type Decider interface {
	Stage
	// Decides returns the attribute that names the metric, the name, and whose metric
	// it is. It is called once the spec is complete and passed Check.
	Decides() (field, metric string, of []Metrics)
}

// A Tuner is a Stage that trains a model. A base that forbids what it asks for is an
// error before anything runs.
type Tuner interface {
	Stage
	// Tunes returns the model that it starts from, whether it says what of it is to be
	// trained, which a base that carries an adapter forbids, and whether that is all
	// weights: then its result carries no adapter. It is called once the spec is complete
	// and passed Check.
	Tunes() (base Model, says, all bool)
}

// An AdapterUser is a Stage that may need the adapter of a model. A model that carries none
// is an error before anything runs.
type AdapterUser interface {
	Stage
	// UsesAdapter returns the attribute that asks for it, "" for none, and the model. It is
	// called once the spec is complete and passed Check.
	UsesAdapter() (field string, of Model)
}

// A Sourcer is a Stage that reads files outside the store (data blocks).
type Sourcer interface {
	Stage
	// Sources returns the paths of the files that Run will read, in the order
	// Run reads them; dir is the directory of the pipeline file, against which
	// relative paths resolve. Their contents are part of the key, and the
	// result is not published if one changes while Run reads it.
	Sources(dir string) ([]string, error)
}

// A Folderer is a Sourcer that can say which directories decide what files it
// reads. What a pipeline with other Sourcers would do is found out from the
// pipeline file each time.
type Folderer interface {
	Sourcer
	// Folders returns the directories in which adding, removing or renaming an
	// entry could change what Sources returns; none when it names single files.
	Folders(dir string) ([]string, error)
}

// A Patterned is a Sourcer that says by which names or patterns its block names
// the files, as they are written.
type Patterned interface {
	Sourcer
	Patterns() []string
}

// A Placer is a Stage that keeps a copy of what it made outside the store.
type Placer interface {
	Stage
	// Place brings the copy up to date. It is called after every run, also when
	// the stage itself was up to date, and returns the place only if it had to
	// write there. dir is as for Sources; open returns an output of the stage.
	Place(dir string, open func(output string) (*artifact.Artifact, error)) (written string, err error)
	// Target returns the directory that Place writes, which the attribute path
	// names; "" for none. It is replaced as a whole.
	Target(dir string) string
}

// A Weightless is a Stage that can do with the configuration and tokenizer of
// a model.
type Weightless interface {
	Stage
	// NeedsWeights reports whether Run reads the weights of the model block
	// that the attribute at path refers to.
	NeedsWeights(path string) bool
}

// A Demanding is a Stage that cannot do its work with every model.
type Demanding interface {
	Stage
	// Takes reports why Run would refuse models that were tuned from m, and m itself,
	// as far as configuration, tokenizer and chat template tell. It is called before
	// anything runs, reads no weights, and may return a [FieldError].
	Takes(m ModelPath) error
}

// A Precise is a Stage whose products may be in a precision that a device lacks.
type Precise interface {
	Stage
	// Products returns the precision: see tensor.Memory.
	Products() tensor.DType
}

// Handles: what references evaluate to, one Go type for each artifact.Type so
// that a spec says what it takes, and for datasets one for the rows in them.
type (
	Dataset       struct{ artifact.Ref } // of plain rows: artifact.Row
	PackedDataset struct{ artifact.Ref } // of packed rows: artifact.Packed
	AnyDataset    struct{ artifact.Ref } // whatever its rows are
	Metrics       struct{ artifact.Ref }
	File          struct{ artifact.Ref }
	// Model is a handle to a model block or to a stage's model output.
	Model struct{ artifact.Ref }
	// Teacher is a handle to a teacher block, with its configuration.
	Teacher struct {
		artifact.Ref
		Config *TeacherConfig
	}
)

// Candidates is a swept stage as a whole, such as eval.sweep: the outputs of
// its instances, sorted by key. A stage without for_each is one candidate with
// an empty key.
type Candidates []Candidate

// A Candidate is one instance of a sweep.
type Candidate struct {
	Key     string  `json:"key"`
	Metrics Metrics `json:"metrics"`
	Model   Model   `json:"model"`
}

// Bindings are handles of any type but teacher by name, sorted by name, such as
// { rows = dedup.clean.dataset }.
type Bindings []Binding

// A Binding is one of them.
type Binding struct {
	Name string       `json:"name"`
	Ref  artifact.Ref `json:"ref"`
}

// A Gate is a condition over the metrics of a stage, judged after every run
// from the stored metrics; it is never part of a key. Inside its expressions
// self.metrics["NAME"], base.metrics["NAME"] (the untuned base model) and
// baseline.metrics["NAME"] (the pinned run; the base model when none is pinned)
// are numbers.
type Gate struct {
	Name         string         `hcl:"name,label"`
	Condition    hcl.Expression `hcl:"condition,expr" doc:"Must be true; refers to self.metrics, baseline.metrics (the pinned run, else the base model) and base.metrics"`
	ErrorMessage hcl.Expression `hcl:"error_message,expr" doc:"What to say when it is not"`
}

// MarshalJSON makes the teacher's configuration the part of the key that it is.
// A Ref would otherwise hide it.
func (t Teacher) MarshalJSON() ([]byte, error) { return marshalTeacher(t.Config) }

// An Env is what the runtime lends to a Stage for one Run.
type Env struct {
	Log     zerolog.Logger
	Seed    uint64 // derived from the pipeline's seed and the kind, not from the block's name
	Backend tensor.Backend
	Dir     string // directory of the pipeline file
	Work    string // private directory that survives a crash and is found again under the same key; for checkpoints and journals
	Store   Inputs
	// Journals is a directory of the store for write-ahead journals of paid
	// calls, which outlive the action; Work when the runtime has none.
	Journals string
	// Account returns the account from which calls to a teacher are paid. It may
	// be nil: see [Env.Pays].
	Account func(t Teacher) *Account

	// Once fills v with what an earlier action of this kind measured under of, and is
	// true, or else with what measure makes it, which is kept. v is a pointer to
	// what JSON can hold without loss; of is all that it depends on beside the kind,
	// its version, the seed and the device. nil where nothing is kept: see [Env.Measure].
	Once func(of, v any, measure func() error) (recalled bool, err error)

	// Create starts the output of that name. Run must create each of its
	// Kind's Outputs once.
	Create func(output string) (*artifact.Writer, error)
	// Metric records one point of a series for the report, such as "loss".
	Metric func(series string, step int64, value float64)
	// Progress says how far Run is; it is cheap and may be called often.
	// total 0 means unknown. unit is plural: "tokens", "rows".
	Progress func(done, total int64, unit string)
	// Note adds one line that people should see in the run's summary, such as
	// "12 of 400 answers were replayed from the journal".
	Note func(format string, args ...any)
}

// Pays returns the account from which calls to t are paid; one of its own where
// the runtime has none.
func (e *Env) Pays(t Teacher) *Account {
	if e.Account == nil {
		return NewBudget(t.Addr, t.Config).Account()
	}
	return e.Account(t)
}

// Measure is Once, where the runtime has it, else measure.
func (e *Env) Measure(of, v any, measure func() error) (recalled bool, err error) {
	if e.Once == nil {
		return false, measure()
	}
	return e.Once(of, v, measure)
}

// Inputs opens what the handles of a spec refer to.
type Inputs interface {
	// Open returns the artifact behind a Dataset, Metrics or File handle, or a
	// Model handle that a stage made, its content checked against the digest.
	Open(r artifact.Ref) (*artifact.Artifact, error)
	// Model returns where the weights behind a Model handle lie: those of a
	// model block, or of a stage's model output over its base.
	Model(r artifact.Ref) (ModelPath, error)
}

// A ModelPath is where a model lies on this machine.
type ModelPath struct {
	Base     string // a Hugging Face directory or a .gguf file
	Adapter  string // a directory with PEFT files over Base; "" when there is none
	Template string // a chat template file that replaces the model's own; "" when there is none
	Quantize string // "nf4": the linear layers of Base are quantised when they are loaded
	// Root is the digest of the model block (or full-weight artifact) that
	// Base is. A stage that trains an adapter writes it into its artifact
	// (see artifact.ModelFile), so that the base is found again by content.
	Root artifact.Digest
	// Training is how the model was made, as far as this store knows.
	Training []artifact.Training
}

// A FieldError is a complaint about one attribute of a spec. Field is the path
// of HCL names, such as "rank", "adapter.rank" or "suite.data".
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Fieldf returns a FieldError.
func Fieldf(field, format string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}
