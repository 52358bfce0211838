package synth

import "strings"

// The default prompts are short and ask for one thing each: models of a few
// hundred million parameters follow them too.
const (
	questionPrompt    = "Read this text.\n\n{text}\n\nWrite one short question that this text answers. Reply with the question only."
	reasoningPrompt   = "Text:\n{text}\n\nQuestion: {question}\n\nThink step by step: which part of the text answers the question, and what follows from it? Reply with two or three sentences."
	answerPrompt      = "Text:\n{text}\n\nQuestion: {question}\n\nThoughts: {reasoning}\n\nNow answer the question in one sentence."
	plainAnswerPrompt = "Text:\n{text}\n\nQuestion: {question}\n\nAnswer the question in one sentence."
	checkPrompt       = "Text:\n{text}\n\nQuestion: {question}\nAnswer: {answer}\n\nDoes the text support this answer? Reply with yes or no."
	correctPrompt     = "Text:\n{text}\n\nQuestion: {question}\n\nThis answer is wrong: {answer}\n\nWrite the right answer in one sentence, using the text only."
	judgePrompt       = "Question: {question}\n\nAnswer A: {a}\n\nAnswer B: {b}\n\nWhich answer is better? Reply with A or B."
	judgeTurnsPrompt  = "Conversation:\n{question}\n\nAnswer A: {a}\n\nAnswer B: {b}\n\nWhich answer is better? Reply with A or B."
	passagePrompt     = "{text}\n\n{question}"
)

// fill replaces {name} by values, given as name, value, name, value. Values
// are not looked into for further names.
func fill(template, fallback string, values ...string) string {
	if template == "" {
		template = fallback
	}
	pairs := make([]string, 0, len(values))
	for i := 0; i < len(values); i += 2 {
		pairs = append(pairs, "{"+values[i]+"}", values[i+1])
	}
	return strings.NewReplacer(pairs...).Replace(template)
}
