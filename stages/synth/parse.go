package synth

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// Replies of small teachers are read tolerantly: what can be understood in one
// way only is accepted, everything else is malformed.

var listMark = regexp.MustCompile(`^(?:[-*•]\s+|\(?\d{1,2}[.):]\s+|(?i:question|q)\s*\d*\s*[:.]\s*)+`)

// parseQuestion finds the first question in a reply.
func parseQuestion(reply string, longest int) (string, error) {
	for _, line := range strings.Split(reply, "\n") {
		line = strings.TrimSpace(line)
		line = strings.Trim(line, "*_\"“”` ")
		line = listMark.ReplaceAllString(line, "")
		line = strings.Trim(line, "*_\"“”` ")
		end := strings.IndexByte(line, '?')
		if end < 0 {
			continue
		}
		q := line[:end+1]
		if cut := strings.LastIndex(q, ". "); cut >= 0 && len(q)-cut > 12 {
			q = q[cut+2:] // a statement before the question
		}
		switch {
		case len(strings.Fields(q)) < 3:
			continue
		case len(q) > longest:
			return "", fmt.Errorf("the question has %d characters, more than max_question_chars = %d", len(q), longest)
		}
		return q, nil
	}
	return "", errors.New("it holds no question")
}

var refusal = regexp.MustCompile(`(?i)^(?:i(?:'|’)?m sorry|sorry,|i cannot|i can(?:'|’)t|as an ai)`)

var answerMark = regexp.MustCompile(`(?i)^\**(?:the\s+)?(?:final\s+|corrected\s+|correct\s+)?answer\**\s*(?:is)?\s*:\**\s*`)

// parseText accepts prose of a sensible length.
func parseText(reply string, longest int) (string, error) {
	s := strings.TrimSpace(answerMark.ReplaceAllString(strings.TrimSpace(reply), ""))
	switch {
	case strings.IndexFunc(s, unicode.IsLetter) < 0 && strings.IndexFunc(s, unicode.IsDigit) < 0:
		return "", errors.New("it is empty")
	case refusal.MatchString(s):
		return "", errors.New("it refuses to answer")
	case len(s) > longest:
		return "", fmt.Errorf("it has %d characters, more than max_answer_chars = %d", len(s), longest)
	}
	return s, nil
}

// parseVerdict reads yes or no from the beginning of a reply.
func parseVerdict(reply string) (string, error) {
	word := strings.ToLower(strings.TrimFunc(firstWord(reply), func(r rune) bool { return !unicode.IsLetter(r) }))
	switch word {
	case "yes", "correct", "true", "right":
		return "yes", nil
	case "no", "incorrect", "false", "wrong", "not":
		return "no", nil
	}
	return "", errors.New("it says neither yes nor no")
}

// parseChoice reads A or B from the beginning of a reply.
func parseChoice(reply string) (string, error) {
	for _, w := range strings.Fields(reply) {
		switch w = strings.ToLower(strings.TrimFunc(w, func(r rune) bool { return !unicode.IsLetter(r) })); w {
		case "a", "b":
			return w, nil
		case "answer", "the", "option", "":
			continue
		}
		break
	}
	return "", errors.New("it names neither A nor B")
}

func firstWord(s string) string {
	if f := strings.Fields(s); len(f) > 0 {
		return f[0]
	}
	return ""
}

// same reports whether two answers say the same words.
func same(a, b string) bool {
	norm := func(s string) string {
		return strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }), " ")
	}
	return norm(a) == norm(b)
}
