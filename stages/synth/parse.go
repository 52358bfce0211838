package synth

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Replies of small teachers are read tolerantly: what can be understood in one
// way only is accepted, everything else is malformed.

const quotes = "*_\"“”` "

var (
	listMark = regexp.MustCompile(`^(?:[-*•]\s+|\(?\d{1,2}[.):]\s+|(?i:question|q)\s*\d*\s*[:.]\s*)+`)
	// leadIn is what comes before the question proper: "Here is a question about the text: ".
	leadIn = regexp.MustCompile(`(?i)^[^?？؟]*\bquestion\b[^?？؟:]*:\s*`)
	// aboutItself finds questions about the exercise instead of the text.
	aboutItself = regexp.MustCompile(`(?i)\b(?:this|the|your|following|my) question\b|\b(?:an?|the) question (?:that|to)\b|\b(?:text|passage|story|topic) about\b|\bwould you like\b|\b(?:can|may|could) i help\b`)
)

// parseQuestion finds the first question in a reply that accept has no
// objection to; small teachers often ask about the exercise first. The error
// is that of the first question.
func parseQuestion(reply string, longest int, accept func(q string) error) (string, error) {
	var first error
	for _, line := range strings.Split(reply, "\n") {
		for line != "" {
			line = strings.Trim(strings.TrimSpace(line), quotes)
			line = strings.Trim(listMark.ReplaceAllString(line, ""), quotes)
			line = strings.Trim(leadIn.ReplaceAllString(line, ""), quotes)
			end := strings.IndexAny(line, "?？؟")
			if end < 0 {
				break
			}
			_, mark := utf8.DecodeRuneInString(line[end:])
			q := line[:end+mark]
			line = line[end+mark:]
			if cut := strings.LastIndex(q, ". "); cut >= 0 && len(q)-cut > 12 {
				q = q[cut+2:] // a statement before the question
			}
			if len(words(q)) < 3 {
				continue
			}
			err := wellFormed(q, longest)
			if err == nil {
				err = accept(q)
			}
			if err == nil {
				return q, nil
			}
			if first == nil {
				first = err
			}
		}
	}
	if first == nil {
		first = errors.New("it holds no question")
	}
	return "", first
}

func wellFormed(question string, longest int) error {
	if aboutItself.MatchString(question) {
		return errors.New("it asks about the exercise, not about the text")
	}
	if len(stems(question)) == 0 {
		return errors.New("it does not say what it asks about")
	}
	if n := utf8.RuneCountInString(question); n > longest {
		return fmt.Errorf("the question has %d characters, more than max_question_chars = %d", n, longest)
	}
	return nil
}

var (
	refusal    = regexp.MustCompile(`(?i)^(?:i(?:'|’)?m sorry|sorry,|i cannot|i can(?:'|’)t|as an ai)`)
	answerMark = regexp.MustCompile(`(?i)^\**(?:(?:the|a)\s+)?(?:(?:final|corrected|correct|right)\s+)?answer\**(?:\s+to\s+(?:the|this|that|your)\s+question)?\s*(?:is\s*:?|:)\**\s*`)
	// echo finds a reply that goes on with the prompt's own headings.
	echo = regexp.MustCompile(`(?mi)^\**(?:text|passage|question|thoughts)\**:`)
)

// parseText accepts prose of a sensible length.
func parseText(reply string, longest int) (string, error) {
	s := strings.TrimSpace(answerMark.ReplaceAllString(reply, ""))
	if k := len(s); k > 2 && s[0] == '"' && s[k-1] == '"' && strings.Count(s, `"`) == 2 {
		s = strings.TrimSpace(s[1 : k-1]) // it quotes itself
	}
	n := utf8.RuneCountInString(s)
	switch {
	case strings.IndexFunc(s, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) < 0:
		return "", errors.New("it is empty")
	case refusal.MatchString(s):
		return "", errors.New("it refuses to answer")
	case echo.MatchString(s):
		return "", errors.New("it repeats the form of the prompt")
	case n > longest:
		return "", fmt.Errorf("it has %d characters, more than max_answer_chars = %d", n, longest)
	}
	return s, nil
}

var answerLine = regexp.MustCompile(`(?mi)^\**(?:(?:the|final)\s+)*answer\**\s*:`)

// parseReasoning accepts prose up to the line where it says what the answer
// is: that line is written by the row.
func parseReasoning(reply string, longest int) (string, error) {
	if at := answerLine.FindStringIndex(reply); at != nil && strings.TrimSpace(reply[:at[0]]) != "" {
		reply = reply[:at[0]]
	}
	return parseText(reply, longest)
}

// parseVerdict reads yes or no from the beginning of a reply.
func parseVerdict(reply string) (string, error) {
	for _, w := range strings.FieldsFunc(strings.ToLower(reply), func(r rune) bool { return !unicode.IsLetter(r) }) {
		switch w {
		case "answer", "verdict", "the", "is":
			continue
		case "yes", "correct", "true", "right", "supported":
			return "yes", nil
		case "no", "incorrect", "false", "wrong", "not", "unsupported":
			return "no", nil
		}
		break
	}
	return "", errors.New("it says neither yes nor no")
}

var article = regexp.MustCompile(`(?i)^\W*a (?:better|good|clear)`) // not the letter

// parseChoice reads A or B from the beginning of a reply.
func parseChoice(reply string) (string, error) {
	if article.MatchString(reply) {
		return "", errors.New("it names neither A nor B")
	}
	for _, w := range strings.FieldsFunc(strings.ToLower(reply), func(r rune) bool { return !unicode.IsLetter(r) }) {
		switch w {
		case "a", "b":
			return w, nil
		case "answer", "the", "option", "better", "is":
			continue
		}
		break
	}
	return "", errors.New("it names neither A nor B")
}

// same reports whether two answers say the same words.
func same(a, b string) bool {
	return strings.Join(words(a), " ") == strings.Join(words(b), " ")
}
