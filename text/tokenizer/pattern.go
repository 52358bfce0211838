package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// The pre-tokenizer patterns that are known, as tokenizer files spell them.
// Go's regexp has no look-ahead, so each has a scanner written by hand.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternO200k  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternTekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternNumber = `\p{N}`
)

// A scanner returns the end of the pre-token that starts at byte i of s;
// i < end <= len(s). Together the pre-tokens cover s.
type scanner func(t *classTable, s string, i int) int

// patternScanner returns the scanner of a regular expression of the list above.
func patternScanner(regex string) (scanner, error) {
	switch regex {
	case patternGPT2:
		return scanGPT2, nil
	case patternLlama3:
		return func(t *classTable, s string, i int) int { return scanLlama3(t, s, i, 3) }, nil
	case patternQwen2:
		return func(t *classTable, s string, i int) int { return scanLlama3(t, s, i, 1) }, nil
	case patternO200k:
		return func(t *classTable, s string, i int) int { return scanO200k(t, s, i, 3, contractionFold) }, nil
	case patternTekken:
		return func(t *classTable, s string, i int) int { return scanO200k(t, s, i, 1, noContraction) }, nil
	case patternNumber:
		return func(t *classTable, s string, i int) int { return scanDigits(t, s, i, true) }, nil
	}
	return nil, fmt.Errorf("pre-tokenizer pattern %q is not one of those known (GPT-2, Llama 3, Qwen 2, Llama 4, Tekken, digits)", regex)
}

func scanGPT2(t *classTable, s string, i int) int {
	if s[i] == '\'' {
		if n := contraction(s[i:]); n > 0 {
			return i + n
		}
	}
	j := i
	if s[i] == ' ' && i+1 < len(s) {
		j++
	}
	switch b, n := t.at(s, j); {
	case b&letter != 0:
		return t.run(s, j+n, letter, 0)
	case b&number != 0:
		return t.run(s, j+n, number, 0)
	case b&space == 0:
		return t.others(s, j+n)
	}
	return whitespace(t, s, i)
}

// scanLlama3 also serves Qwen 2, which differs in digits: at most that many in
// a pre-token.
func scanLlama3(t *classTable, s string, i, digits int) int {
	if s[i] == '\'' {
		if n := contractionFold(s[i:]); n > 0 {
			return i + n
		}
	}
	b, n := t.at(s, i)
	switch {
	case b&letter != 0:
		return t.run(s, i+n, letter, 0)
	case b&number != 0:
		return numbers(t, s, i, digits)
	case b&newline == 0 && i+n < len(s):
		if b, m := t.at(s, i+n); b&letter != 0 {
			return t.run(s, i+n+m, letter, 0)
		}
	}
	if end := punctuation(t, s, i, "\r\n"); end > i {
		return end
	}
	return lines(t, s, i)
}

// scanO200k also serves Mistral's Tekken, which has no contractions and one digit in a
// pre-token.
func scanO200k(t *classTable, s string, i, digits int, contraction func(s string) int) int {
	b, n := t.at(s, i)
	j := i // after the optional first character
	if b&(newline|letter|number) == 0 {
		j += n
	}
	for _, start := range [2]int{j, i} {
		if end := lowerWord(t, s, start); end > start {
			return end + contraction(s[end:])
		}
	}
	for _, start := range [2]int{j, i} {
		if end := t.run(s, start, upper, 0); end > start {
			return end + contraction(s[end:])
		}
	}
	if b&number != 0 {
		return numbers(t, s, i, digits)
	}
	if end := punctuation(t, s, i, "\r\n/"); end > i {
		return end
	}
	return lines(t, s, i)
}

// lowerWord matches `[upper]*[lower]+` as a backtracking matcher does: the
// upper part is as long as it can be with one character left for the lower
// part. It returns i when there is no match.
func lowerWord(t *classTable, s string, i int) int {
	end := t.run(s, i, upper, 0)
	if e := t.run(s, end, lower, 0); e > end {
		return e
	}
	for e := end; e > i; {
		_, n := utf8.DecodeLastRuneInString(s[i:e])
		if b, _ := t.at(s, e-n); b&lower != 0 {
			return e
		}
		e -= n
	}
	return i
}

func noContraction(string) int { return 0 }

// contraction returns the length of one of 's 't 're 've 'm 'll 'd at the
// start of s, or 0.
func contraction(s string) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	switch s[1] {
	case 's', 't', 'm', 'd':
		return 2
	}
	if len(s) >= 3 {
		switch s[1:3] {
		case "re", "ve", "ll":
			return 3
		}
	}
	return 0
}

// contractionFold is contraction without regard to case; ſ (U+017F) folds to s.
func contractionFold(s string) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	switch s[1] | 0x20 {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && s[2]|0x20 == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && s[2]|0x20 == 'l' {
			return 3
		}
	}
	if strings.HasPrefix(s[1:], "ſ") {
		return 3
	}
	return 0
}

func numbers(t *classTable, s string, i, most int) int {
	for ; most > 0 && i < len(s); most-- {
		b, n := t.at(s, i)
		if b&number == 0 {
			break
		}
		i += n
	}
	return i
}

// punctuation matches ` ?[^\s\p{L}\p{N}]+[tail]*`; it returns i when it does not.
func punctuation(t *classTable, s string, i int, tail string) int {
	j := i
	if s[i] == ' ' {
		j++
	}
	end := t.others(s, j)
	if end == j {
		return i
	}
	for end < len(s) && strings.IndexByte(tail, s[end]) >= 0 {
		end++
	}
	return end
}

// lines matches `\s*[\r\n]+|\s+(?!\S)|\s+`.
func lines(t *classTable, s string, i int) int {
	end := t.run(s, i, space, 0)
	if k := strings.LastIndexAny(s[i:end], "\r\n"); k >= 0 {
		return i + k + 1
	}
	return spaces(s, i, end)
}

// whitespace matches `\s+(?!\S)|\s+`.
func whitespace(t *classTable, s string, i int) int { return spaces(s, i, t.run(s, i, space, 0)) }

// spaces ends the whitespace run [i, end): all of it at the end of the text or
// when it is one character, else all but its last character.
func spaces(s string, i, end int) int {
	if end == len(s) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(s[i:end])
	if end-n > i {
		return end - n
	}
	return end
}

// scanDigits separates numeric characters, one by one or in runs, from the rest.
func scanDigits(t *classTable, s string, i int, individual bool) int {
	b, n := t.at(s, i)
	if b&digit != 0 {
		if individual {
			return i + n
		}
		return t.run(s, i, digit, 0)
	}
	for i += n; i < len(s); i += n {
		if b, n = t.at(s, i); b&digit != 0 {
			break
		}
	}
	return i
}
