package eval

import "pipe/text/chat"

// A cut says what of a question and its answers did not fit the model's context:
// the beginning of the question, and the end of an answer.
type cut struct{ question, answer bool }

func (c cut) or(d cut) cut { return cut{c.question || d.question, c.answer || d.answer} }

// A tally counts the questions of a job that were cut, to fit so many tokens, the
// answers that ended before what was thought did, and the questions whose answer a
// thought has to precede, while it was scored without one.
type tally struct{ Rows, Questions, Answers, Context, Thoughts, Mute int }

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

// listen counts a question whose answer is scored after ctx, where a thought is begun.
func (r *runner) listen(ctx string) {
	if chat.Begun(ctx) != "" {
		r.tally.Mute++
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
	if n := t.Questions; n > 0 {
		r.env.Note("%s %q: %d of %d questions lost their beginning, since with the answer they are longer than %s context of %d tokens", j.field, j.name, n, t.Rows, whom, t.Context)
	}
	if n := t.Answers; n > 0 {
		r.env.Note("%s %q: answers to %d of %d questions lost their end, since with the question they are longer than %s context of %d tokens", j.field, j.name, n, t.Rows, whom, t.Context)
	}
	who := "the model"
	if again {
		who = "the baseline"
	}
	if n := t.Thoughts; n > 0 {
		r.env.Note("%s %q: %d of %d answers of %s ended while it was thinking, and count as empty; raise max_tokens, or set template_vars = { enable_thinking = false } in its model block if its chat template knows that", j.field, j.name, n, t.Rows, who)
	}
	if n := t.Mute; n > 0 {
		r.env.Note("%s %q: the chat template of %s lets it think before each answer, and answers were scored in the place of what it thinks; set template_vars = { enable_thinking = false } in its model block if its chat template knows that", j.field, j.name, who)
	}
}
