package pack

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// write creates the outputs and says what was done.
func (s *spec) write(env *stage.Env, p *packing, m *pretrained.Model) error {
	w, err := env.Create("dataset")
	if err != nil {
		return err
	}
	if err := artifact.Append(w, p.rows...); err != nil {
		return err
	}
	f := p.manifest(m)
	f.Each = p.talk && s.Turns == eachTurn
	if err := w.WriteJSON(artifact.PackedFile, f); err != nil {
		return err
	}
	var used, learned int
	for i := range p.rows {
		used += len(p.rows[i].IDs)
		learned += learnedTokens(&p.rows[i])
	}
	room := len(p.rows) * s.SeqLen
	count := func(n int) artifact.Metric { return artifact.Metric{N: len(p.rows), Value: float64(n)} }
	share := func(n, of int) artifact.Metric {
		return artifact.Metric{N: of, Value: float64(n) / float64(of), Better: 1}
	}
	metrics := artifact.MetricsFile{Metrics: map[string]artifact.Metric{
		"pack.rows": count(len(p.rows)), "pack.documents": count(p.sequences),
		"pack.tokens": count(used), "pack.learned_tokens": count(learned),
		"pack.density": share(used, room), "pack.learned_share": share(learned, used),
		"pack.truncated": count(p.truncated), "pack.truncated_tokens": count(p.lost),
		"pack.dropped": count(len(p.dropped) + len(p.hollow)), "pack.control_tokens_in_text": count(p.spoken), "pack.empty_turns": count(p.empty),
	}}
	env.Note("%s in %s of %s: %.1f%% of the places hold a token, %.1f%% of the tokens are learned",
		stage.Count(p.sequences, "document"), stage.Count(len(p.rows), "row"), stage.Count(s.SeqLen, "token"), 100*float64(used)/float64(room), 100*float64(learned)/float64(used))
	what := "row"
	if f.Each {
		what = "turn" // with what preceded it
	}
	if p.truncated > 0 {
		env.Note("%s longer than seq_len lost %s at the end", stage.Count(p.truncated, what), stage.Count(p.lost, "token"))
	}
	if n := len(p.dropped); n > 0 {
		env.Note("%s longer than seq_len left out: %s", stage.Count(n, what), some(p.dropped))
	}
	if n := len(p.hollow); n > 0 {
		env.Note("%s left out, whose first seq_len tokens hold nothing to learn: %s", stage.Count(n, what), some(p.hollow))
	}
	if p.idle > 0 {
		env.Note("%s left out, which held nothing to learn", stage.Count(p.idle, "packed row"))
	}
	if p.silent > 0 {
		env.Note("nothing that the assistant says is learned in %s: the chat template marks other parts with {%% generation %%}; set another chat_template in the model block", stage.Count(p.silent, "conversation"))
	}
	if p.others > 0 {
		env.Note("what others than the assistant say is learned as well in %s: the chat template marks it with {%% generation %%}; set another chat_template in the model block, unless that is meant", stage.Count(p.others, "conversation"))
	}
	if p.talk && !p.ends && p.silent == 0 {
		env.Note("no conversation teaches a token that ends a text%s: what is tuned on them does not learn to stop; let the chat template end what the assistant says with such a token, inside {%% generation %%} if it has that", named(m))
	}
	if p.empty > 0 {
		env.Note("the assistant says nothing in %s, and that is learned: %s", stage.Count(p.empty, "turn"), some(p.mum))
	}
	if p.dumb > 0 {
		env.Note("the chat template leaves out what is thought in %s, which are learned without it; set a chat_template that writes it in the model block, or leave it out with reasoning = \"drop\" in the data block", stage.Count(p.dumb, "turn"))
	}
	if p.spoken > 0 {
		env.Note("text of a control token, which the tokenizer reads as that token, stands in %s", stage.Count(p.spoken, "turn"))
	}
	if w, err = env.Create("metrics"); err != nil {
		return err
	}
	return w.WriteJSON(artifact.MetricsName, metrics)
}

// named lists the tokens that end a text, in parentheses.
func named(m *pretrained.Model) string {
	var names []string
	for _, id := range m.EOS {
		names = append(names, m.Tokenizer.TokenString(id))
	}
	if names == nil {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// manifest says what the rows were packed with.
func (p *packing) manifest(m *pretrained.Model) artifact.PackedManifest {
	f := artifact.PackedManifest{Tokens: m.Tokenizer.Spelling(func(yield func([]int32) bool) {
		for i := range p.rows {
			if !yield(p.rows[i].IDs) {
				return
			}
		}
	})}
	if p.talk {
		sum := artifact.Digest(sha256.Sum256([]byte(m.TemplateSource)))
		f.Template = &sum
		if sum, ok := m.TurnTokens(); ok {
			turns := artifact.Digest(sum)
			f.Turns = &turns
		}
	}
	return f
}

// learnedTokens counts the targets of a row: learned tokens that are not the
// first of their document.
func learnedTokens(row *artifact.Packed) (n int) {
	d := 0
	for i := 0; i < len(row.Loss); i += 2 {
		from, to := row.Loss[i], row.Loss[i+1]
		n += int(to - from)
		for d < len(row.Starts) && row.Starts[d] < from {
			d++
		}
		for ; d < len(row.Starts) && row.Starts[d] < to; d++ {
			n--
		}
	}
	return n
}

// some lists the first few ids, each once.
func some(ids []string) string {
	const shown = 3
	ids = slices.Compact(slices.Clone(ids))
	if len(ids) <= shown {
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:shown], ", "), len(ids)-shown)
}
