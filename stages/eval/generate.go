package eval

import (
	"fmt"
	"slices"
	"strings"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/text/answer"
	"pipe/text/chat"
	"pipe/train"
)

// generate asks each question and compares what the greedy answer says, not what
// is thought before it, with the reference. Blind is what one answer, given to all, scores.
func generate(r *runner, u *suite, rows []artifact.Row) (*result, error) {
	wants := make([]string, len(rows))
	for i, row := range rows {
		if row.Answer == "" {
			return nil, fmt.Errorf("row %s has no answer to compare with", row.ID)
		}
		wants[i] = normalize(u.Normalizer, row.Answer)
	}
	if r.blind {
		res := &result{}
		guesses := mostFrequent(wants)
		for _, m := range generated {
			res.put(m.name, bestGuess(m, guesses, wants), 1)
		}
		return res, nil
	}
	texts, err := r.answers(u, rows)
	if err != nil {
		return nil, err
	}
	return r.judge(u, rows, wants, texts), nil
}

// judge scores answers against normalised references. An answer that ended while
// it was a thought says nothing.
func (r *runner) judge(u *suite, rows []artifact.Row, wants, texts []string) *result {
	res := &result{}
	each := make([][]float64, len(generated))
	for i, row := range rows {
		if _, _, ended := artifact.CutThought(texts[i]); !ended {
			r.tally.Thoughts++
		}
		got := normalize(u.Normalizer, texts[i])
		score := map[string]float64{}
		for k, m := range generated {
			score[m.name] = m.score(got, wants[i])
			each[k] = append(each[k], score[m.name])
		}
		res.items = append(res.items, item(row, texts[i], map[string]any{"correct": score["exact_match"] == 1, "contains": score["contains"] == 1, "normalized": got, "f1": score["f1"]}))
	}
	for k, m := range generated {
		res.put(m.name, train.MeanOf(each[k]), 1)
	}
	return res
}

// A comparison scores an answer against the reference, both normalised.
type comparison struct {
	name  string
	score func(got, want string) float64
}

// generated are the metrics of generated answers.
var generated = []comparison{
	{"exact_match", func(got, want string) float64 { return indicator(got == want && want != "") }},
	{"contains", func(got, want string) float64 { return indicator(answer.Contains(got, want)) }},
	{"f1", overlap},
}

// maxGuesses bounds the answers that the blind guesser tries on all rows.
const maxGuesses = 64

// mostFrequent returns the most frequent of the normalised reference answers,
// at most maxGuesses; of equally frequent ones those that come first. One that
// normalises to nothing is no answer.
func mostFrequent(wants []string) []string {
	count := map[string]int{}
	var guesses []string
	for _, w := range wants {
		if count[w]++; count[w] == 1 && w != "" {
			guesses = append(guesses, w)
		}
	}
	slices.SortStableFunc(guesses, func(a, b string) int { return count[b] - count[a] })
	return guesses[:min(len(guesses), maxGuesses)]
}

// bestGuess is what the guess that scores best scores when it is given to all.
func bestGuess(m comparison, guesses, wants []string) train.Estimate {
	best := train.MeanOf(make([]float64, len(wants)))
	for _, g := range guesses {
		each := make([]float64, len(wants))
		for i, w := range wants {
			each[i] = m.score(g, w)
		}
		if e := train.MeanOf(each); e.Value > best.Value {
			best = e
		}
	}
	return best
}

func (r *runner) answers(u *suite, rows []artifact.Row) ([]string, error) {
	reqs, begun := make([]model.Request, len(rows)), make([]string, len(rows))
	shots := r.shots(u, rows)
	for i, row := range rows {
		ctx, _, err := r.subject.prompt(question(row), shots(i), false)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", row.ID, err)
		}
		begun[i] = chat.Begun(ctx)
		var lost cut
		if reqs[i], lost, err = r.request(ctx, u.MaxTokens); err != nil {
			return nil, fmt.Errorf("row %s: %w", row.ID, err)
		}
		r.count(lost)
		if r.subject.Template == nil {
			reqs[i].Stop = r.untilNext()
		}
	}
	texts, err := r.complete(reqs)
	for i, t := range texts {
		if r.subject.Template == nil {
			t, _ = untilNext(t)
		}
		texts[i] = begun[i] + t
	}
	return texts, err
}

// untilNext returns the answer that plain text begins with, and whether it is
// followed by the beginning of another example.
func untilNext(text string) (answer string, more bool) {
	answer, _, more = strings.Cut(strings.TrimLeft(text, "\n"), "\n\n")
	return answer, more
}

// untilNext returns a [model.Request]'s Stop, for one request.
func (r *runner) untilNext() func(ids []int32) bool {
	s, text := r.subject.Tokenizer.NewStream(true), ""
	return func(ids []int32) bool {
		text += s.Push(ids[len(ids)-1])
		_, more := untilNext(text)
		return more
	}
}

// request is a greedy continuation of a prompt, whose beginning is cut when
// there is no room for the answer.
func (r *runner) request(ctx string, most int) (q model.Request, lost cut, err error) {
	ids := r.subject.encodePrompt(ctx)
	if len(ids) == 0 {
		ids = r.subject.start()
	}
	room := r.subject.Config.MaxPositions - most
	if room < 1 {
		return q, lost, fmt.Errorf("answers of %d tokens do not fit the model's context of %d", most, r.subject.Config.MaxPositions)
	}
	if len(ids) > room {
		ids, lost.question = ids[len(ids)-room:], true
	}
	return model.Request{Prompt: ids, MaxTokens: most, StopIDs: r.subject.EOS}, lost, nil
}
