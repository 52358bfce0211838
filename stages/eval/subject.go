package eval

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/memory"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/text/chat"
)

// A subject is a loaded model under evaluation.
type subject struct {
	*pretrained.Model
	decoder *model.Decoder // nil when only memory is planned
	adapter bool           // it carries one
	base    bool           // run without the adapter

	guard  *memory.Guard
	shadow *model.Decoder // on the plan of guard
}

func openSubject(b tensor.Backend, p stage.ModelPath, precision tensor.DType) (*subject, error) {
	s, err := openShadow(b, p, precision)
	if err != nil {
		return nil, err
	}
	if s.decoder, err = model.Load(b, s.Config, s.Weights, false); err != nil {
		s.close()
		return nil, fmt.Errorf("load %s: %w", p.Base, err)
	}
	s.decoder.SetPrecision(precision)
	if p.Adapter != "" {
		if _, err := adapter.Load(s.decoder, p.Adapter); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// openShadow opens the files of a model and puts it on a plan.
func openShadow(b tensor.Backend, p stage.ModelPath, precision tensor.DType) (*subject, error) {
	m, err := pretrained.Open(p.Base, pretrained.WithTemplate(p.Template), pretrained.WithQuantization(p.Quantize))
	if err != nil {
		return nil, err
	}
	s := &subject{Model: m, guard: memory.NewGuard(b), adapter: p.Adapter != ""}
	if s.guard != nil {
		if s.shadow, err = s.guard.Decoder(m.Config, m.Weights, p.Adapter, precision); err != nil {
			m.Close()
			return nil, fmt.Errorf("load %s: %w", p.Base, err)
		}
	}
	return s, nil
}

func (s *subject) close() {
	if s.decoder != nil {
		s.decoder.Close()
	}
	s.Close()
}

// start are the ids that a text without context begins with: BOS, else EOS.
func (s *subject) start() []int32 {
	switch {
	case s.BOS >= 0:
		return []int32{s.BOS}
	case len(s.EOS) > 0:
		return s.EOS[:1]
	}
	return []int32{0}
}

// chatText renders messages with the model's template.
func (s *subject) chatText(ms []artifact.Message, open bool) (string, error) {
	in := chat.Input{AddGenerationPrompt: open, Special: s.Special}
	for _, m := range ms {
		in.Messages = append(in.Messages, chat.Message{Role: m.Role, Content: m.Content})
	}
	return s.Template.Text(in)
}

// before returns the text before an answer that is given, to messages that end with a
// question: what asks for it, and what the template then writes itself, such as the
// empty thought of Qwen 3's. Spaces at its end are the delimiter, since they join what
// follows.
func (s *subject) before(ms []artifact.Message) (ctx, delimiter string, err error) {
	const answer = "\ue000"
	open, err := s.chatText(ms, true)
	if err != nil {
		return "", "", err
	}
	full, err := s.chatText(append(slices.Clone(ms), artifact.Message{Role: "assistant", Content: answer}), false)
	at := strings.LastIndex(full, answer)
	if err != nil || at < 0 || !strings.HasPrefix(full[:at], open) { // it has no form for an answer after these
		return open, "", nil
	}
	ctx = open + strings.TrimRight(full[len(open):at], " ")
	return ctx, full[len(ctx):at], nil
}

// prompt returns the text before the answer to a question, after solved
// examples: a chat when the model has a template, else plain text (with
// " " before the answer, unless the text ends in whitespace). given says that the
// answer is scored, not asked for.
func (s *subject) prompt(question []artifact.Message, examples []example, given bool) (ctx, delimiter string, err error) {
	if s.Template != nil {
		var ms []artifact.Message
		for _, e := range examples {
			ms = append(append(ms, e.question...), artifact.Message{Role: "assistant", Content: e.answer})
		}
		ms = append(ms, question...)
		if given {
			return s.before(ms)
		}
		ctx, err = s.chatText(ms, true)
		return ctx, "", err
	}
	var b strings.Builder
	for _, e := range examples {
		q := plain(e.question)
		b.WriteString(q + space(q) + e.answer + "\n\n")
	}
	b.WriteString(plain(question))
	return b.String(), space(b.String()), nil
}

type example struct {
	question []artifact.Message
	answer   string
}

// plain is a question for a model without a chat template.
func plain(ms []artifact.Message) string {
	var parts []string
	for _, m := range ms {
		parts = append(parts, m.Content)
	}
	return strings.Join(parts, "\n\n")
}

func space(before string) string {
	if r, _ := utf8.DecodeLastRuneInString(before); before == "" || unicode.IsSpace(r) {
		return ""
	}
	return " "
}

// continuation encodes an answer after its context as one text, so that
// tokens may join across the seam: the target is what follows the tokens of
// the context alone (lm-evaluation-harness, which like this moves whitespace
// at the end of plain context to the answer). When both are longer than the
// model's context, an answer is cut to at least half of it and the context at
// its beginning to the rest.
func (s *subject) continuation(ctx, answer string) (c model.Continuation, lost cut, err error) {
	if s.Template == nil {
		rest := strings.TrimRightFunc(ctx, unicode.IsSpace)
		ctx, answer = rest, ctx[len(rest):]+answer
	}
	if ctx == "" {
		c.Context, c.Target = s.start(), s.Tokenizer.Encode(answer)
	} else {
		c.Context = s.encodePrompt(ctx)
		whole := s.encodePrompt(ctx + answer)
		c.Target = whole[min(len(c.Context), len(whole)):]
	}
	if len(c.Target) == 0 {
		return c, lost, fmt.Errorf("answer %q has no tokens of its own", answer)
	}
	most := s.Config.MaxPositions
	n := min(len(c.Target), most-min(len(c.Context), most/2))
	from := max(0, len(c.Context)+n-most)
	lost = cut{from > 0, n < len(c.Target)}
	c.Context, c.Target = c.Context[from:], c.Target[:n]
	return c, lost, nil
}

// encodePrompt encodes a prompt as the tokenizer begins texts: with BOS where
// it puts one and the text has none.
func (s *subject) encodePrompt(text string) []int32 {
	ids := s.Tokenizer.Encode(text)
	prefix := s.Tokenizer.Wrap(nil)
	if len(prefix) > 0 && prefix[0] == s.BOS && (len(ids) == 0 || ids[0] != s.BOS) {
		return append([]int32{s.BOS}, ids...)
	}
	return ids
}

// spell is the text of an answer: without special tokens, but with those that are
// around a thought, which some tokenizers count among them.
func (s *subject) spell(ids []int32) string {
	var b strings.Builder
	from := 0
	for i, id := range ids {
		if mark := s.Tokenizer.TokenString(id); mark == "<think>" || mark == "</think>" {
			b.WriteString(s.Tokenizer.DecodePlain(ids[from:i]) + mark)
			from = i + 1
		}
	}
	b.WriteString(s.Tokenizer.DecodePlain(ids[from:]))
	return b.String()
}

// A runner runs jobs on a subject.
type runner struct {
	ctx     context.Context
	env     *stage.Env
	subject *subject
	batch   int
	blind   bool // score without the question
	total   int

	tally   tally            // of the present job
	tallies []tally          // of the jobs of all
	told    map[string]tally // of the jobs that were noted, by name
}

// all runs every job.
func (r *runner) all(jobs []job, blind bool) ([]*result, error) {
	r.blind, r.tallies = blind, make([]tally, len(jobs))
	out := make([]*result, len(jobs))
	for i, j := range jobs {
		r.tally = tally{Context: r.subject.Config.MaxPositions}
		res, err := j.run(r)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", j.field, j.name, err)
		}
		out[i], r.tallies[i] = res, r.tally
		if !blind {
			r.tell(j, r.tally)
		}
	}
	return out, nil
}

// score measures progress in tokens: continuations differ in length, and the
// time that is left is told from it.
func (r *runner) score(cs []model.Continuation) ([]model.Scores, error) {
	upTo := make([]int64, len(cs)+1) // tokens of the first continuations
	for i, c := range cs {
		upTo[i+1] = upTo[i] + int64(len(c.Context)+len(c.Target))
	}
	tell := func(done int) { r.env.Progress(upTo[done], upTo[len(cs)], "tokens") }
	tell(0)
	o := model.ScoreOptions{Tokens: r.batch, Base: r.subject.base, Progress: tell}
	if err := r.fits(func(d *model.Decoder) error { return memory.Score(r.ctx, d, cs, o) }, fmt.Sprintf("lower batch (it is %d)", r.batch)); err != nil {
		return nil, err
	}
	if r.subject.decoder == nil {
		return noScores(cs), nil
	}
	return r.subject.decoder.Score(r.ctx, cs, o)
}

// complete continues prompts greedily.
func (r *runner) complete(reqs []model.Request) ([]string, error) {
	out := make([]string, len(reqs))
	done := 0
	r.env.Progress(0, int64(len(reqs)), "answers")
	o := model.GenerateOptions{Base: r.subject.base}
	if err := r.fits(func(d *model.Decoder) error { return memory.Generate(r.ctx, d, reqs, o) }, "lower max_tokens, or shorten the prompts"); err != nil {
		return nil, err
	}
	if r.subject.decoder == nil {
		return out, nil
	}
	err := r.subject.decoder.Generate(r.ctx, reqs, o, func(i int, res model.Result) error {
		out[i] = r.subject.spell(res.IDs)
		done++
		r.env.Progress(int64(done), int64(len(reqs)), "answers")
		return nil
	})
	return out, err
}

// fits refuses work that needs more memory than there is.
func (r *runner) fits(work func(shadow *model.Decoder) error, advice ...string) error {
	if r.subject.guard == nil {
		return nil
	}
	if err := work(r.subject.shadow); err != nil {
		return err
	}
	if r.subject.decoder == nil {
		return nil
	}
	return r.subject.guard.Check(append(advice, "take a model with smaller weights, such as a q4_0 GGUF")...)
}

func sumLogP(s model.Scores) (sum float64) {
	for _, x := range s.LogP {
		sum += float64(x)
	}
	return sum
}
