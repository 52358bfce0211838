// Package synth is the stage that asks a teacher for training data: questions
// and worked answers from documents, answers to prompts, and pairs of better and worse answers.
package synth

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/teacher"
	"pipe/teacher/dial"
	"pipe/text/answer"
)

//go:embed README.md
var doc string

// Kind is the stage kind "synth".
var Kind = stage.Kind{
	Name: "synth", Doc: doc, Version: 5, Compute: true,
	Outputs: []stage.Output{
		{Name: "dataset", Type: artifact.Dataset, Rows: artifact.PlainRows, Doc: "Conversations (document_to_dialogue, responses) or preference pairs (preference_pairs)"},
		{Name: "rejects", Type: artifact.Dataset, Rows: artifact.DropRows, Doc: "What the teacher could not answer in a usable form, each with its reason (artifact.Drop)"},
	},
	New: func() stage.Stage {
		return &spec{Count: 100, Attempts: 3, ChunkChars: 1500, Reasoning: "inline", Pairs: "reference", MaxQuestion: 300, MaxAnswer: 4000, Grounding: 0.5}
	},
}

// The methods.
const (
	dialogues = "document_to_dialogue"
	responses = "responses"
	pairs     = "preference_pairs"
)

// own is a value of Reasoning.
const own = "own"

type spec struct {
	Teacher   stage.Teacher  `hcl:"teacher" doc:"Who answers"`
	Method    string         `hcl:"method" doc:"document_to_dialogue (needs documents), responses or preference_pairs (need prompts)"`
	Documents *stage.Dataset `hcl:"documents,optional" doc:"Rows with text, from which questions are made"`
	Prompts   *stage.Dataset `hcl:"prompts,optional" doc:"Of preference_pairs: conversations ending in an answer, for which a worse one is made; of responses: prompts to be answered, whose own answers are left out"`
	Count     int            `hcl:"count,optional" doc:"Rows to ask for. Row i is asked for in the same words whatever the count is: a larger count reuses earlier answers"`

	SelfCorrect bool    `hcl:"self_correct,optional" doc:"Let the teacher check each answer against the document, and correct it"`
	Attempts    int     `hcl:"attempts,optional" doc:"How often a malformed reply is asked for again before the row is rejected"`
	ChunkChars  int     `hcl:"chunk_chars,optional" doc:"Longest passage shown to the teacher, in characters; documents are cut between paragraphs"`
	Context     bool    `hcl:"context,optional" doc:"Put the passage into the user turn of the row, for a model that answers from a given text"`
	Reasoning   string  `hcl:"reasoning,optional" doc:"inline: the assistant turn is the reasoning, then a line with Answer: and the answer; think: the reasoning between <think> and </think>, then the answer; own: the same with what the teacher thought by itself before the answer, which it must show; none: the answer alone"`
	System      string  `hcl:"system,optional" doc:"System turn of the rows; empty for none"`
	Pairs       string  `hcl:"pairs,optional" doc:"Of preference_pairs. reference: the row's own answer against the teacher's to the same conversation without the passage; judge: two answers of the teacher to the whole prompt, of which it says which is better"`
	Verify      string  `hcl:"verify,optional" json:",omitempty" doc:"Of responses: keep only replies that say the reference answer of the row. text: its words stand in the reply; number: it is the last number of the reply; exact: it is the reply"`
	MaxQuestion int     `hcl:"max_question_chars,optional" doc:"Longest question that is accepted"`
	MaxAnswer   int     `hcl:"max_answer_chars,optional" doc:"Longest reasoning or answer that is accepted"`
	Grounding   float64 `hcl:"grounding,optional" doc:"Share of the words of a question, and of an answer, that must stand in the passage; 0 accepts all. Numbers and words of four letters and more count, without endings"`
	Salt        int     `hcl:"salt,optional" doc:"Another number asks for other samples. Sampling depends on it and the row's index, not on the pipeline's seed, so that a new seed costs no teacher call"`

	QuestionPrompt  string `hcl:"question_prompt,optional" doc:"Asks for a question; {text} stands for the passage"`
	ReasoningPrompt string `hcl:"reasoning_prompt,optional" doc:"Asks for the reasoning; {text}, {question}"`
	AnswerPrompt    string `hcl:"answer_prompt,optional" doc:"Asks for the final answer; {text}, {question}, {reasoning}"`
	CheckPrompt     string `hcl:"check_prompt,optional" doc:"Asks whether the answer holds (yes or no); {text}, {question}, {answer}"`
	CorrectPrompt   string `hcl:"correct_prompt,optional" doc:"Asks for a corrected answer; {text}, {question}, {answer}"`
	JudgePrompt     string `hcl:"judge_prompt,optional" doc:"Asks which answer is better (A or B); {question} (the prompt: its user turn or, where it has more than one turn, all of them, each after its role), {a}, {b}"`
}

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	switch s.Method {
	case dialogues:
		bad(s.Documents == nil, "method", "%q needs documents; refer to a dataset, such as data.docs", s.Method)
		bad(s.Prompts != nil, "prompts", "is not used by method %q; remove it", s.Method)
	case pairs:
		bad(s.Prompts == nil, "method", "%q needs prompts; refer to a dataset of conversations, such as synth.cot.dataset", s.Method)
		bad(s.Documents != nil, "documents", "is not used by method %q; remove it", s.Method)
	case responses:
		bad(s.Prompts == nil, "method", "%q needs prompts; refer to a dataset of prompts, such as data.questions", s.Method)
		bad(s.Documents != nil, "documents", "is not used by method %q; remove it", s.Method)
		bad(s.SelfCorrect, "self_correct", "is not used by method %q, which has no document to check with; verify checks with a reference answer", s.Method)
		bad(s.Reasoning == "think", "reasoning", "is \"think\", and method %q asks for nothing but an answer; %q keeps what the teacher thinks by itself", s.Method, own)
	default:
		bad(true, "method", "is %q; must be %q, %q or %q", s.Method, dialogues, responses, pairs)
	}
	bad(s.Verify != "" && s.Method != responses, "verify", "is used by method %q only; remove it", responses)
	bad(s.Verify != "" && !slices.Contains(answer.Normalizers(), s.Verify), "verify", "is %q; must be one of %q", s.Verify, answer.Normalizers())
	bad(s.Count < 1, "count", "is %d; must be at least 1", s.Count)
	bad(s.Attempts < 1 || s.Attempts > 20, "attempts", "is %d; must be between 1 and 20", s.Attempts)
	bad(s.ChunkChars < 50, "chunk_chars", "is %d; must be at least 50", s.ChunkChars)
	bad(!slices.Contains([]string{"inline", "think", own, "none"}, s.Reasoning), "reasoning", "is %q; must be \"inline\", \"think\", %q or \"none\"", s.Reasoning, own)
	bad(s.Pairs != "reference" && s.Pairs != "judge", "pairs", "is %q; must be \"reference\" or \"judge\"", s.Pairs)
	bad(s.MaxQuestion < 10, "max_question_chars", "is %d; must be at least 10", s.MaxQuestion)
	bad(s.MaxAnswer < 10, "max_answer_chars", "is %d; must be at least 10", s.MaxAnswer)
	bad(!(s.Grounding >= 0 && s.Grounding <= 1), "grounding", "is %v; must be between 0 and 1", s.Grounding)
	bad(s.QuestionPrompt != "" && !strings.Contains(s.QuestionPrompt, "{text}"), "question_prompt", "does not contain {text}: the teacher would not see the passage")
	bad(s.JudgePrompt != "" && !(strings.Contains(s.JudgePrompt, "{a}") && strings.Contains(s.JudgePrompt, "{b}")), "judge_prompt", "must contain {a} and {b}")
	return errors.Join(errs...)
}

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	account := env.Pays(s.Teacher)
	t, closeTeacher, err := s.dial(ctx, env, account)
	if err != nil {
		return err
	}
	err = s.run(ctx, env, &asker{teacher: t, spec: s, account: account})
	return errors.Join(err, closeTeacher())
}

// dial opens the teacher behind its journals, and the account behind those.
func (s *spec) dial(ctx context.Context, env *stage.Env, account *stage.Account) (teacher.Teacher, func() error, error) {
	c := s.Teacher.Config
	timeout, err := time.ParseDuration(c.Timeout)
	if err != nil {
		return nil, nil, err
	}
	d := dial.Config{
		Provider: c.Provider, Endpoint: c.Endpoint, APIKeyEnv: c.APIKeyEnv, ModelID: c.ModelID,
		Precision: c.Precision, Backend: env.Backend, Concurrency: c.Concurrency, Timeout: timeout, Retries: c.Retries,
	}
	if c.Model != nil {
		d.ModelDigest = c.Model.Digest.String()
		p, err := env.Store.Model(c.Model.Ref)
		if err != nil {
			return nil, nil, err
		}
		d.ModelPath, d.AdapterPath, d.TemplatePath, d.Quantize = p.Base, p.Adapter, p.Template, p.Quantize
	}
	if d.Journal = c.Journal; d.Journal != "" && !filepath.IsAbs(d.Journal) {
		d.Journal = filepath.Join(env.Dir, d.Journal)
	}
	journals := env.Journals
	if journals == "" {
		journals = env.Work
	}
	d.WriteTo = filepath.Join(journals, "teacher.jsonl")
	longest := timeout
	if c.Provider == "local" { // its answers end with max_tokens
		longest = 0
	}
	d.Around = func(t teacher.Teacher) teacher.Teacher {
		return &paid{t, account, longest, func() error { return ended(ctx) }}
	}
	return dial.Open(ctx, d)
}

// A result is what became of row i: a row, or the reason why there is none.
type result struct {
	row    artifact.Row
	reject *artifact.Drop
}

// run asks for all rows, several at once, and writes them in order.
func (s *spec) run(ctx context.Context, env *stage.Env, ask *asker) error {
	items, err := s.items(env, ask)
	if err != nil {
		return err
	}
	patient, release := stage.Outlast(ctx)
	defer release()
	patient = teacher.WithEnd(patient, ctx.Done())
	results := make([]result, len(items))
	var done atomic.Int64
	var first atomic.Pointer[error] // of the rows: then nothing more is asked
	ask.over = func() error {
		if err := first.Load(); err != nil {
			return *err
		}
		return ended(ctx)
	}
	var g errgroup.Group // without a context: what is in flight is paid for, and comes home
	g.SetLimit(max(1, s.Teacher.Config.Concurrency))
	for i, item := range items {
		g.Go(func() error {
			if first.Load() != nil {
				return nil
			}
			r, err := item(patient)
			if err != nil {
				if !errors.As(err, new(*stage.BudgetError)) {
					err = fmt.Errorf("row %d: %w", i, err)
				}
				first.CompareAndSwap(nil, &err)
				return nil
			}
			results[i] = r
			env.Progress(done.Add(1), int64(len(items)), "rows")
			return nil
		})
	}
	g.Wait()
	if err := first.Load(); err != nil {
		if b := new(stage.BudgetError); errors.As(*err, &b) {
			return fmt.Errorf("%d of %s done: %w", done.Load(), stage.Count(len(items), "row"), b)
		}
		return *err
	}
	return write(env, ask, results)
}

func write(env *stage.Env, ask *asker, results []result) error {
	rows, err := env.Create("dataset")
	if err != nil {
		return err
	}
	rejects, err := env.Create("rejects")
	if err != nil {
		return err
	}
	if err := errors.Join(artifact.Append[artifact.Row](rows), artifact.Append[artifact.Drop](rejects)); err != nil {
		return err
	}
	n := 0
	for _, r := range results {
		if r.reject != nil {
			if err := artifact.Append(rejects, *r.reject); err != nil {
				return err
			}
			continue
		}
		n++
		if err := artifact.Append(rows, r.row); err != nil {
			return err
		}
	}
	env.Note("%s, %d rejected; %s, of which %d replayed from journals", stage.Count(n, "row"), len(results)-n, stage.Count(ask.asked.Load(), "teacher answer"), ask.replayed.Load())
	if spent := ask.account.Spent(); spent.Calls+spent.Lost > 0 {
		env.Note("%s", stage.Cost(spent))
	}
	if n == 0 {
		return allRejected(env, results)
	}
	return nil
}
