package eval

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/text/chat"
	"pipe/train"
)

// rowType is the type of suite that a row is made for.
func rowType(r artifact.Row) string {
	switch {
	case len(r.Choices) > 0:
		return "multiple_choice"
	case len(r.Chosen) > 0:
		return "preference"
	case r.Answer != "":
		return "generate"
	}
	return "perplexity"
}

// rows reads the rows of the suite.
func (u *suite) rows(env *stage.Env) ([]artifact.Row, error) {
	a, err := env.Store.Open(u.Data.Ref)
	if err != nil {
		return nil, err
	}
	var rows []artifact.Row
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", u.Data, err)
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, stage.Fieldf("suite.data", "%s has no rows", u.Data)
	}
	if u.Limit > 0 && u.Limit < len(rows) {
		at := drawn(env.Seed, "eval rows", rows)[:u.Limit]
		slices.Sort(at)
		kept := make([]artifact.Row, 0, u.Limit)
		for _, i := range at {
			kept = append(kept, rows[i])
		}
		rows = kept
	}
	return rows, nil
}

// drawn returns the numbers of rows in an order that the seed draws. Each row has
// its place by its own content: one that is added or leaves moves no other past
// another, so that suites of two days have most of their items in common.
func drawn(seed uint64, purpose string, rows []artifact.Row) []int {
	at, places := make([]int, len(rows)), make([][sha256.Size]byte, len(rows))
	for i, r := range rows {
		r.ID, r.Source, r.Meta = "", "", ""
		content, _ := json.Marshal(r) // texts and numbers: it cannot fail
		at[i], places[i] = i, sha256.Sum256(fmt.Appendf(nil, "%d %s %s", seed, purpose, content))
	}
	slices.SortStableFunc(at, func(a, b int) int { return bytes.Compare(places[a][:], places[b][:]) })
	return at
}

// question is what a row asks.
func question(r artifact.Row) []artifact.Message {
	if len(r.Messages) > 0 {
		return r.Messages
	}
	return []artifact.Message{{Role: "user", Content: r.Text}}
}

// reference is the answer of a row that is right.
func reference(r artifact.Row) string {
	if len(r.Choices) > 0 && int(r.Gold) < len(r.Choices) && r.Gold >= 0 {
		return r.Choices[r.Gold]
	}
	return r.Answer
}

// shots returns a function that makes solved examples for a row: other rows, the
// same ones whatever the subject.
func (r *runner) shots(u *suite, rows []artifact.Row) func(row int) []example {
	if u.FewShot == 0 || r.blind {
		return func(int) []example { return nil }
	}
	order := drawn(r.env.Seed, "few-shot examples", rows)
	return func(row int) (out []example) {
		for _, i := range order {
			if len(out) == u.FewShot {
				break
			}
			if i != row {
				out = append(out, example{question(rows[i]), reference(rows[i])})
			}
		}
		return out
	}
}

// multipleChoice scores each choice after the question. acc takes the choice
// with the highest log-probability, acc_norm that with the highest
// log-probability per character (lm-evaluation-harness).
func multipleChoice(r *runner, u *suite, rows []artifact.Row) (*result, error) {
	var cs []model.Continuation
	shots := r.shots(u, rows)
	for i, row := range rows {
		if len(row.Choices) < 2 || row.Gold < 0 || int(row.Gold) >= len(row.Choices) {
			return nil, fmt.Errorf("row %s is not a multiple-choice item: %d choices, gold %d", row.ID, len(row.Choices), row.Gold)
		}
		q := question(row)
		if r.blind {
			q = []artifact.Message{{Role: "user"}}
		}
		ctx, delimiter, err := r.subject.prompt(q, shots(i), true)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", row.ID, err)
		}
		r.listen(ctx)
		var lost cut
		for _, choice := range row.Choices {
			c, l, err := r.subject.continuation(ctx, delimiter+choice)
			if err != nil {
				return nil, fmt.Errorf("row %s: %w", row.ID, err)
			}
			cs, lost = append(cs, c), lost.or(l)
		}
		r.count(lost)
	}
	scores, err := r.score(cs)
	if err != nil {
		return nil, err
	}
	var acc, norm []float64
	res := &result{}
	for _, row := range rows {
		n := len(row.Choices)
		ll, perChar := make([]float64, n), make([]float64, n)
		for k, c := range row.Choices {
			ll[k] = sumLogP(scores[k])
			perChar[k] = ll[k] / float64(max(1, utf8.RuneCountInString(c)))
		}
		scores = scores[n:]
		best := argmax(ll)
		acc = append(acc, indicator(best == int(row.Gold)))
		norm = append(norm, indicator(argmax(perChar) == int(row.Gold)))
		res.items = append(res.items, item(row, row.Choices[best], map[string]any{"correct": best == int(row.Gold), "log_probs": ll}))
	}
	res.put("acc", train.MeanOf(acc), 1)
	res.put("acc_norm", train.MeanOf(norm), 1)
	return res, nil
}

// preference asks which of two answers the model finds more probable: acc by
// the sum of log-probabilities, acc_norm by their mean per token, margin the
// mean difference of the sums.
func preference(r *runner, _ *suite, rows []artifact.Row) (*result, error) {
	var cs []model.Continuation
	for _, row := range rows {
		if len(row.Chosen) == 0 || len(row.Rejected) == 0 {
			return nil, fmt.Errorf("row %s is not a preference: it needs chosen and rejected", row.ID)
		}
		q := question(row)
		if r.blind {
			q = []artifact.Message{{Role: "user"}}
		}
		var lost cut
		for _, a := range [][]artifact.Message{row.Chosen, row.Rejected} {
			c, l, err := r.reply(q, a)
			if err != nil {
				return nil, fmt.Errorf("row %s: %w", row.ID, err)
			}
			cs, lost = append(cs, c), lost.or(l)
		}
		r.count(lost)
	}
	scores, err := r.score(cs)
	if err != nil {
		return nil, err
	}
	res := &result{}
	var acc, norm, margin []float64
	for i, row := range rows {
		c, j := sumLogP(scores[2*i]), sumLogP(scores[2*i+1])
		nc, nj := float64(len(cs[2*i].Target)), float64(len(cs[2*i+1].Target))
		acc, norm, margin = append(acc, indicator(c > j)), append(norm, indicator(c/nc > j/nj)), append(margin, c-j)
		res.sums = append(res.sums, [2]float64{c, j})
		res.items = append(res.items, item(row, "", map[string]any{"correct": c > j, "correct_norm": norm[i] == 1, "chosen_log_prob": c, "rejected_log_prob": j}))
	}
	res.put("acc", train.MeanOf(acc), 1)
	res.put("acc_norm", train.MeanOf(norm), 1)
	res.put("margin", train.MeanOf(margin), 1)
	return res, nil
}

// reply is an assistant's answer, end of turn included, after a conversation.
func (r *runner) reply(question, answer []artifact.Message) (c model.Continuation, lost cut, err error) {
	if r.subject.Template == nil {
		ctx := plain(question)
		return r.subject.continuation(ctx, space(ctx)+plain(answer))
	}
	ctx, err := r.subject.chatText(question, true)
	if err != nil {
		return c, lost, err
	}
	full, err := r.subject.chatText(append(slices.Clone(question), answer...), false)
	if err != nil {
		return c, lost, err
	}
	rest, ok := strings.CutPrefix(full, ctx)
	if !ok {
		return c, lost, chat.Parts(ctx, full)
	}
	return r.subject.continuation(ctx, rest)
}

// gained is 1 for each pair whose chosen answer gained more log-probability over
// the base than the rejected one, else 0: their mean is the accuracy of rewards
// (Rafailov et al. 2023).
func gained(tuned, base [][2]float64) (each []float64) {
	for i, t := range tuned {
		each = append(each, indicator(t[0]-base[i][0] > t[1]-base[i][1]))
	}
	return each
}

func argmax(x []float64) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

func indicator(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// answered is an item with how it went.
type answered struct {
	row     artifact.Row
	details map[string]any
}

func item(r artifact.Row, got string, details map[string]any) answered {
	if got != "" {
		details["got"] = got
	}
	return answered{r, details}
}

// line is the item as the output items has it.
func (a answered) line() artifact.Row {
	meta, err := json.Marshal(a.details) // keys sorted
	if err != nil {
		meta = []byte(fmt.Sprintf(`{"error":%q}`, err))
	}
	a.row.Meta = string(meta)
	return a.row
}
