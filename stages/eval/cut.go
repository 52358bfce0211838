package eval

// A cut says what of a question and its answers did not fit the model's context:
// the beginning of the question, and the end of an answer.
type cut struct{ question, answer bool }

func (c cut) or(d cut) cut { return cut{c.question || d.question, c.answer || d.answer} }

// A tally counts the questions of a job that were cut, to fit so many tokens, and the
// generated answers that end before their thoughts do.
type tally struct{ Rows, Questions, Answers, Context, Thoughts int }

// count adds a question that was asked.
func (r *runner) count(c cut) {
	r.tally.Rows++
	if c.question {
		r.tally.Questions++
	}
	if c.answer {
		r.tally.Answers++
	}
}

// tell notes what of a job was cut. What the model that is compared with lost is
// said only when it is not the same.
func (r *runner) tell(j job, t tally) {
	was, again := r.told[j.name]
	if again && was == t {
		return
	}
	if r.told == nil {
		r.told = map[string]tally{}
	}
	r.told[j.name] = t
	whom := "the model's"
	if again {
		whom = "the baseline's"
	}
	if n := t.Thoughts; n > 0 {
		r.env.Note("%s %q: %d of %s %d answers end before their thoughts do and say nothing: raise max_tokens, or give its model block a chat_template that asks for no thoughts", j.field, j.name, n, whom, t.Rows)
	}
	if n := t.Questions; n > 0 {
		r.env.Note("%s %q: %d of %d questions lost their beginning, since with the answer they are longer than %s context of %d tokens", j.field, j.name, n, t.Rows, whom, t.Context)
	}
	if n := t.Answers; n > 0 {
		r.env.Note("%s %q: answers to %d of %d questions lost their end, since with the question they are longer than %s context of %d tokens", j.field, j.name, n, t.Rows, whom, t.Context)
	}
}
