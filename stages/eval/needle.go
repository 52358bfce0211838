package eval

import (
	"fmt"
	"math"
	"strings"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/text/chat"
	"pipe/train"
)

// needle is the needle block: key-value facts hidden in a text at given
// depths, and asked for at its end (after Hsieh et al. 2024, RULER).
type needle struct {
	Lengths  []int          `hcl:"lengths" doc:"Tokens of prompt and answer together, one row of the grid each"`
	Depths   []float64      `hcl:"depths,optional" doc:"Where the fact lies: 0 at the beginning, 1 at the end of the text; one column each"`
	PerCell  int            `hcl:"per_cell,optional" doc:"Prompts of each cell"`
	Style    string         `hcl:"style,optional" doc:"What is hidden: number or word"`
	Digits   int            `hcl:"digits,optional" doc:"Digits of a number"`
	Keys     int            `hcl:"keys,optional" doc:"Facts in each text; one is asked for, the others distract"`
	Format   string         `hcl:"format,optional" doc:"chat, plain, or auto: chat when the model has a chat template"`
	Haystack *stage.Dataset `hcl:"haystack,optional" doc:"Rows whose sentences make the text; without it, built-in sentences"`
}

// SetDefaults sets what the block may leave out.
func (n *needle) SetDefaults() {
	n.Depths = []float64{0, 0.25, 0.5, 0.75, 1}
	n.PerCell, n.Style, n.Digits, n.Keys, n.Format = 5, "number", 7, 1, "auto"
}

func (n *needle) check() (errs []error) {
	if n == nil {
		return nil
	}
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf("needle."+field, format, args...))
		}
	}
	bad(len(n.Lengths) == 0, "lengths", "is empty; give prompt lengths in tokens, such as [512, 1024]")
	for _, l := range n.Lengths {
		bad(l < 32, "lengths", "holds %d; must be at least 32 tokens", l)
	}
	bad(len(n.Depths) == 0, "depths", "is empty; give depths between 0 and 1, such as [0, 0.5, 1]")
	for _, d := range n.Depths {
		bad(!(d >= 0 && d <= 1), "depths", "holds %v; must be between 0 and 1", d)
	}
	bad(n.PerCell < 1 || n.PerCell > 1000, "per_cell", "is %d; must be between 1 and 1000", n.PerCell)
	bad(n.Style != "number" && n.Style != "word", "style", "is %q; must be \"number\" or \"word\"", n.Style)
	bad(n.Digits < 1 || n.Digits > 18, "digits", "is %d; must be between 1 and 18", n.Digits)
	bad(n.Keys < 1 || n.Keys > 100, "keys", "is %d; must be between 1 and 100", n.Keys)
	bad(n.Format != "auto" && n.Format != "chat" && n.Format != "plain", "format", "is %q; must be \"auto\", \"chat\" or \"plain\"", n.Format)
	return errs
}

// noise are the sentences of a text that says nothing.
var noise = []string{
	"The river runs past the old mill.", "Two boats wait at the pier.", "Snow lies on the far hills.",
	"A train leaves in the morning.", "Birds sit along the fence.", "The market opens at eight.",
	"Rain falls on the garden.", "Someone left a lamp on.", "The road bends to the left.", "Bread is baking in the kitchen.",
}

// haystack returns the sentences to hide facts among.
func (n *needle) haystack(env *stage.Env) ([]string, error) {
	if n.Haystack == nil {
		return noise, nil
	}
	a, err := env.Store.Open(n.Haystack.Ref)
	if err != nil {
		return nil, err
	}
	var out []string
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", n.Haystack, err)
		}
		text := row.Text
		for _, m := range row.Messages {
			text += "\n" + m.Content
		}
		out = append(out, sentences(text)...)
	}
	if len(out) == 0 {
		return nil, stage.Fieldf("needle.haystack", "%s has no text", n.Haystack)
	}
	return out, nil
}

// sentences cuts text at line ends and after full stops.
func sentences(text string) []string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		for _, s := range strings.SplitAfter(line, ". ") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// probe is one prompt of the grid.
type probe struct {
	keys, values []string // the first is asked for
	places       []float64
	offset       int // of the first sentence in the haystack
}

// probe makes the facts of one prompt from the seed: the same for every
// subject.
func (n *needle) probe(env *stage.Env, length int, depth float64, k, hay int) probe {
	s := model.NewStream(env.Seed, fmt.Sprintf("needle %d %g %d", length, depth, k))
	var p probe
	seen := map[string]bool{}
	at := uint64(0)
	draw := func(n int) int { at++; return int(s.Float(at) * float64(n)) }
	for len(p.keys) < n.Keys {
		key := invented(draw)
		if seen[key] {
			continue
		}
		seen[key] = true
		value := invented(draw)
		if n.Style == "number" {
			value = string(rune('1' + draw(9)))
			for len(value) < n.Digits {
				value += string(rune('0' + draw(10)))
			}
		}
		place := depth
		if len(p.keys) > 0 {
			place = float64(draw(1000)) / 1000
		}
		p.keys, p.values, p.places = append(p.keys, key), append(p.values, value), append(p.places, place)
	}
	p.offset = draw(hay)
	return p
}

// invented is a word that no text has: consonants and vowels in turn.
func invented(draw func(int) int) string {
	var b strings.Builder
	for range 2 + draw(2) {
		b.WriteByte("bdfgklmnprstvz"[draw(14)])
		b.WriteByte("aeiou"[draw(5)])
	}
	return b.String()
}

// text lays the facts among count sentences.
func (n *needle) text(p probe, hay []string, count int) string {
	var out []string
	for i := 0; i <= count; i++ {
		for k := range p.keys {
			if int(math.Round(p.places[k]*float64(count))) == i {
				out = append(out, fmt.Sprintf("One of the special magic %ss for %s is: %s.", n.Style, p.keys[k], p.values[k]))
			}
		}
		if i < count {
			out = append(out, hay[(p.offset+i)%len(hay)])
		}
	}
	return strings.Join(out, " ")
}

// chat reports whether the text is shown in a chat.
func (n *needle) chat(s *subject) bool {
	return n.Format == "chat" || n.Format == "auto" && s.Template != nil
}

// prompt ends with the beginning of the answer, so that the value must follow.
func (n *needle) prompt(s *subject, p probe, text string) (string, error) {
	ask := fmt.Sprintf("%s\nWhat is the special magic %s for %s mentioned in the provided text?", text, n.Style, p.keys[0])
	prefix := fmt.Sprintf("The special magic %s for %s mentioned in the provided text is:", n.Style, p.keys[0])
	if !n.chat(s) {
		return ask + "\n" + prefix, nil
	}
	if s.Template == nil {
		return "", stage.Fieldf("needle.format", "is \"chat\", but the model has no chat template")
	}
	ctx, delimiter, err := s.before([]artifact.Message{{Role: "user", Content: ask}})
	return ctx + delimiter + prefix, err
}

// fit returns the longest prompt that leaves room for the answer within length.
func (n *needle) fit(s *subject, p probe, hay []string, length, answer int) ([]int32, error) {
	build := func(count int) ([]int32, error) {
		text, err := n.prompt(s, p, n.text(p, hay, count))
		return s.encodePrompt(text), err
	}
	best, err := build(0)
	if err != nil {
		return nil, err
	}
	if len(best)+answer > length {
		return nil, stage.Fieldf("needle.lengths", "holds %d, but the question alone takes %s", length, stage.Count(len(best)+answer, "token"))
	}
	lo, hi := 0, length // sentences: at least a token each
	for lo+1 < hi {
		mid := (lo + hi) / 2
		ids, err := build(mid)
		if err != nil {
			return nil, err
		}
		if len(ids)+answer <= length {
			lo, best = mid, ids
		} else {
			hi = mid
		}
	}
	return best, nil
}

// run asks all prompts of the grid. Blind is the chance of guessing a value
// without the text.
func (n *needle) run(r *runner, hay []string) (*result, error) {
	s := r.subject
	g := &artifact.Grid{RowName: "length (tokens)", ColName: "depth", Cols: n.Depths, N: n.PerCell}
	var reqs []model.Request
	var probes []probe
	for _, length := range n.Lengths {
		g.Rows = append(g.Rows, float64(length))
		g.Values = append(g.Values, make([]float64, len(n.Depths)))
		if length > s.Config.MaxPositions {
			return nil, stage.Fieldf("needle.lengths", "holds %d; the model's context is %d tokens", length, s.Config.MaxPositions)
		}
		for _, depth := range n.Depths {
			for k := range n.PerCell {
				p := n.probe(r.env, length, depth, k, len(hay))
				answer := len(s.Tokenizer.Encode(" "+p.values[0]+".")) + 2
				if r.blind {
					probes = append(probes, p)
					continue
				}
				ids, err := n.fit(s, p, hay, length, answer)
				if err != nil {
					return nil, err
				}
				probes = append(probes, p)
				reqs = append(reqs, model.Request{Prompt: ids, MaxTokens: answer, StopIDs: s.EOS})
			}
		}
	}
	res := &result{grid: g}
	if r.blind {
		chance := math.Pow(10, -float64(n.Digits)) * 10 / 9
		if n.Style == "word" {
			chance = 0.5 / (70 * 70) // half the words have two syllables
		}
		res.put("acc", train.Estimate{N: len(probes), Value: chance}, 1)
		return res, nil
	}
	if n.chat(s) {
		ctx, _, err := s.before([]artifact.Message{{Role: "user", Content: "?"}})
		if err != nil {
			return nil, err
		}
		if chat.Begun(ctx) != "" {
			r.tally.Rows, r.tally.Mute = len(reqs), len(reqs)
		}
	}
	texts, err := r.complete(reqs)
	if err != nil {
		return nil, err
	}
	var acc []float64
	for i, p := range probes {
		ok := startsWith(texts[i], p.values[0])
		acc = append(acc, indicator(ok))
		cell := i / n.PerCell
		g.Values[cell/len(n.Depths)][cell%len(n.Depths)] += indicator(ok) / float64(n.PerCell)
		res.items = append(res.items, item(artifact.Row{ID: fmt.Sprint(i), Text: p.keys[0], Answer: p.values[0], Gold: -1}, texts[i], map[string]any{
			"correct": ok, "length": n.Lengths[cell/len(n.Depths)], "depth": n.Depths[cell%len(n.Depths)], "tokens": len(reqs[i].Prompt)}))
	}
	res.put("acc", train.MeanOf(acc), 1)
	return res, nil
}

// startsWith reports whether the first word of got is want.
func startsWith(got, want string) bool {
	got = strings.TrimLeft(got, " \n\"'*")
	rest, ok := strings.CutPrefix(got, want)
	if !ok {
		return false
	}
	return rest == "" || !(rest[0] >= '0' && rest[0] <= '9' || rest[0] >= 'a' && rest[0] <= 'z' || rest[0] >= 'A' && rest[0] <= 'Z' || rest[0] >= 0x80)
}
