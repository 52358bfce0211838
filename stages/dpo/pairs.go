package dpo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pipe/model"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/text/chat"
	"pipe/train"
)

// pairs reads the pairs to learn from and those held out.
func (s *spec) pairs(env *stage.Env, m *pretrained.Model) (learn, held []train.Preference, err error) {
	if m.Template == nil {
		return nil, nil, stage.Fieldf("base", "%s has no chat template to render prompts with; set chat_template in its model block", s.Base)
	}
	r := s.renderer(m)
	if learn, err = s.read(env, r, s.Data, "data"); err != nil {
		return nil, nil, err
	}
	switch {
	case s.EvalData != nil:
		if held, err = s.read(env, r, *s.EvalData, "eval_data"); err != nil {
			return nil, nil, err
		}
		if n := shared(learn, held); n > 0 {
			env.Note("the prompts of %s of eval_data are in data too: the metrics are better for it", stage.Count(n, "pair"))
		}
	case s.EvalSplit > 0:
		if learn, held = split(learn, s.EvalSplit, env.Seed); len(held) == 0 {
			env.Note("data has a single prompt: nothing is held out, so there are no eval metrics")
		}
	}
	return learn, held, nil
}

// split holds out a share of the pairs, at least one, chosen by the seed. All
// pairs of a prompt are held out, or none.
func split(pairs []train.Preference, share float64, seed uint64) (learn, held []train.Preference) {
	groups, of := map[string]int{}, make([]int, len(pairs))
	var sizes []int
	for i, p := range pairs {
		g, ok := groups[key(p.Prompt)]
		if !ok {
			g = len(sizes)
			groups[key(p.Prompt)], sizes = g, append(sizes, 0)
		}
		of[i] = g
		sizes[g]++
	}
	out := train.HoldOut(sizes, share, model.NewStream(seed, "held-out pairs"))
	for i, p := range pairs {
		if out[of[i]] {
			held = append(held, p)
		} else {
			learn = append(learn, p)
		}
	}
	return learn, held
}

// shared counts the pairs of b whose prompt a has too.
func shared(a, b []train.Preference) (n int) {
	in := map[string]bool{}
	for _, p := range a {
		in[key(p.Prompt)] = true
	}
	for _, p := range b {
		if in[key(p.Prompt)] {
			n++
		}
	}
	return n
}

// key is ids as a map key.
func key(ids []int32) string {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return string(b)
}

// A renderer turns rows into token ids with a model's own template.
type renderer struct {
	m    *pretrained.Model
	most int    // tokens of prompt and answer together
	name string // of the bound that most is
}

func (s *spec) renderer(m *pretrained.Model) renderer {
	if s.MaxLen > m.Config.MaxPositions {
		return renderer{m, m.Config.MaxPositions, fmt.Sprintf("the model's context of %d tokens", m.Config.MaxPositions)}
	}
	return renderer{m, s.MaxLen, fmt.Sprintf("max_len = %d", s.MaxLen)}
}

// Why a row is left out.
var (
	errLong = errors.New("its prompt leaves no room for an answer")
	errSame = errors.New("its answers are the same")
	errTail = errors.New("its answers differ only behind where they are cut")
)

// left counts the rows that are left out, by why.
type left struct{ long, same, tail int }

// count reports whether err is a reason to leave a row out.
func (l *left) count(err error) bool {
	switch {
	case errors.Is(err, errLong):
		l.long++
	case errors.Is(err, errSame):
		l.same++
	case errors.Is(err, errTail):
		l.tail++
	default:
		return false
	}
	return true
}

func (l left) all() int { return l.long + l.same + l.tail }

// reasons says how many were left out and why.
func (l left) reasons(r renderer) string {
	var out []string
	add := func(n int, format string, args ...any) {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d "+format, append([]any{n}, args...)...))
		}
	}
	add(l.long, "whose prompt leaves no room for an answer in %s", r.name)
	add(l.tail, "whose answers are the same up to %s, where they are cut", r.name)
	add(l.same, "whose answers are the same")
	return strings.Join(out, ", ")
}

// advice says what to change when pairs are too long.
func (s *spec) advice(r renderer, out left) string {
	if out.long+out.tail == 0 || r.most < s.MaxLen {
		return ""
	}
	return "; raise max_len"
}

func (s *spec) read(env *stage.Env, r renderer, d stage.Dataset, field string) ([]train.Preference, error) {
	a, err := env.Store.Open(d.Ref)
	if err != nil {
		return nil, err
	}
	var pairs []train.Preference
	n, cut, dumb, out := 0, 0, 0, left{}
	var mum []string // ids of pairs whose chosen answer is empty
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", d, err)
		}
		n++
		p, shorter, err := r.pair(row)
		switch {
		case out.count(err):
		case err != nil:
			return nil, fmt.Errorf("%s row %s: %w", d, row.ID, err)
		default:
			pairs = append(pairs, p)
			cut += shorter
			dumb += r.forgotten(row)
			if !slices.ContainsFunc(row.Chosen, func(m artifact.Message) bool { return strings.TrimSpace(m.Content) != "" }) {
				mum = append(mum, row.ID)
			}
		}
	}
	switch {
	case n == 0:
		return nil, stage.Fieldf(field, "%s has no rows", d)
	case len(pairs) == 0:
		return nil, stage.Fieldf(field, "%s has no pair to use: of %s there are %s%s", d, stage.Count(n, "row"), out.reasons(r), s.advice(r, out))
	case out.all() > 0:
		env.Note("%d of %s of %s left out: %s", out.all(), stage.Count(n, "pair"), d, out.reasons(r))
	}
	if len(mum) > 0 {
		env.Note("the chosen answer of %s of %s says nothing, and that is preferred: %s", stage.Count(len(mum), "pair"), d, some(mum))
	}
	if dumb > 0 {
		env.Note("the chat template leaves out what is thought in %s of %s, which are compared without it; set a chat_template that writes it in the model block, or leave it out with reasoning = \"drop\" in the data block", stage.Count(dumb, "answer"), d)
	}
	if cut > 0 {
		env.Note("%d of %s of %s were cut to %s", cut, stage.Count(2*len(pairs), "answer"), d, r.name)
	}
	return pairs, nil
}

// some lists the first few ids.
func some(ids []string) string {
	const shown = 3
	if len(ids) <= shown {
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:shown], ", "), len(ids)-shown)
}

// pair tokenises a row: the prompt with the beginning of the assistant's turn,
// and what each answer adds to it. cut is how many of the two answers were cut.
func (r renderer) pair(row artifact.Row) (p train.Preference, cut int, err error) {
	if len(row.Messages) == 0 || len(row.Chosen) == 0 || len(row.Rejected) == 0 {
		return p, 0, errors.New("is not a preference: it needs messages, chosen and rejected")
	}
	prompt, err := r.render(row.Messages, true)
	if err != nil {
		return p, 0, err
	}
	p.Prompt = r.m.Tokenizer.Encode(prompt)
	if len(p.Prompt) == 0 {
		return p, 0, errors.New("its prompt renders to no tokens")
	}
	if len(p.Prompt) >= r.most {
		return p, 0, errLong
	}
	if p.Chosen, err = r.answer(row, row.Chosen, prompt, p.Prompt); err != nil {
		return p, 0, fmt.Errorf("chosen: %w", err)
	}
	if p.Rejected, err = r.answer(row, row.Rejected, prompt, p.Prompt); err != nil {
		return p, 0, fmt.Errorf("rejected: %w", err)
	}
	if slices.Equal(p.Chosen, p.Rejected) {
		return p, 0, errSame
	}
	for _, a := range []*[]int32{&p.Chosen, &p.Rejected} {
		if room := r.most - len(p.Prompt); len(*a) > room {
			*a = (*a)[:room]
			cut++
		}
	}
	if slices.Equal(p.Chosen, p.Rejected) {
		return p, 0, errTail
	}
	return p, cut, nil
}

func (r renderer) answer(row artifact.Row, answer []artifact.Message, prompt string, ids []int32) ([]int32, error) {
	text, err := r.render(slices.Concat(row.Messages, answer), false)
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutPrefix(text, prompt)
	if !ok {
		return nil, chat.Parts(prompt, text)
	}
	// Tokens may join across the seam; then both parts are encoded alone.
	all := r.m.Tokenizer.Encode(text)
	if len(all) > len(ids) && slices.Equal(all[:len(ids)], ids) {
		all = all[len(ids):]
	} else {
		all = r.m.Tokenizer.EncodeMore(rest)
	}
	if len(all) == 0 {
		return nil, errors.New("the answer renders to no tokens")
	}
	return all, nil
}

// forgotten counts the answers of a pair whose thoughts the template leaves out.
func (r renderer) forgotten(row artifact.Row) (n int) {
	for _, answer := range [][]artifact.Message{row.Chosen, row.Rejected} {
		lost := slices.ContainsFunc(answer, func(m artifact.Message) bool {
			thought, _, _ := artifact.CutThought(m.Content)
			if m.Role != "assistant" || thought == "" {
				return false
			}
			text, err := r.render(slices.Concat(row.Messages, answer), false)
			return err == nil && !strings.Contains(text, thought)
		})
		if lost {
			n++
		}
	}
	return n
}

func (r renderer) render(ms []artifact.Message, open bool) (string, error) {
	in := chat.Input{AddGenerationPrompt: open, Special: r.m.Special}
	for _, m := range ms {
		in.Messages = append(in.Messages, chat.Message{Role: m.Role, Content: m.Content})
	}
	return r.m.Template.Text(in)
}
