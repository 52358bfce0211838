package chat

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is the kind of a token.
type kind uint8

const (
	tokEOF        kind = iota
	tokText            // template text between tags
	tokBlockBegin      // {%
	tokBlockEnd        // %}
	tokVarBegin        // {{
	tokVarEnd          // }}
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
)

type token struct {
	kind kind
	text string // the operator, name, number, decoded string, or template text
	line int
}

// lexer cuts a template into tokens with trim_blocks and lstrip_blocks on.
type lexer struct {
	src       string
	pos       int
	tokens    []token
	lineStart bool // whether what precedes pos ends a line, or the source begins
	counted   int  // how far newlines have been counted
	lines     int
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }

func trimRight(s string) string { return strings.TrimRightFunc(s, isSpace) }
func trimLeft(s string) string  { return strings.TrimLeftFunc(s, isSpace) }

func lex(src string) ([]token, error) {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	src = strings.TrimSuffix(src, "\n") // keep_trailing_newline is off
	l := &lexer{src: src, lineStart: true}
	for l.pos < len(src) {
		if err := l.next(); err != nil {
			return nil, err
		}
	}
	l.emit(tokEOF, "")
	return l.tokens, nil
}

// line returns the number of the line at pos.
func (l *lexer) line() int {
	if l.pos > l.counted {
		l.lines += strings.Count(l.src[l.counted:l.pos], "\n")
		l.counted = l.pos
	}
	return l.lines + 1
}

func (l *lexer) emit(k kind, text string) {
	l.tokens = append(l.tokens, token{kind: k, text: text, line: l.line()})
}

func (l *lexer) errorf(format string, a ...any) error {
	return &SyntaxError{l.line(), fmt.Sprintf(format, a...)}
}

// next reads the text up to a tag, and the tag.
func (l *lexer) next() error {
	at := -1
	for i := l.pos; i+1 < len(l.src); i++ {
		if l.src[i] == '{' && strings.IndexByte("{%#", l.src[i+1]) >= 0 {
			at = i
			break
		}
	}
	if at < 0 {
		l.emit(tokText, l.src[l.pos:])
		l.pos = len(l.src)
		return nil
	}
	text, tag := l.src[l.pos:at], l.src[at+1]
	sign := byte(0)
	if at+2 < len(l.src) && (l.src[at+2] == '-' || l.src[at+2] == '+') {
		sign = l.src[at+2]
	}
	l.text(text, tag, sign)
	l.pos = at + 2
	if sign != 0 {
		l.pos++
	}
	switch tag {
	case '#':
		return l.comment()
	case '{':
		l.emit(tokVarBegin, "")
		return l.inside("}}", tokVarEnd)
	}
	if raw, err := l.raw(); raw || err != nil {
		return err
	}
	l.emit(tokBlockBegin, "")
	return l.inside("%}", tokBlockEnd)
}

// text emits the text before a tag, stripped as the tag asks for.
func (l *lexer) text(text string, tag, sign byte) {
	switch {
	case sign == '-':
		text = trimRight(text)
	case sign != '+' && tag != '{':
		nl := strings.LastIndexByte(text, '\n') + 1
		if (nl > 0 || l.lineStart) && strings.TrimLeftFunc(text[nl:], isSpace) == "" {
			text = text[:nl]
		}
	}
	if text != "" {
		l.emit(tokText, text)
	}
}

// end consumes what may follow a closing tag at pos: "-" before it strips all
// whitespace, a newline after a block or comment goes.
func (l *lexer) end(tag string) bool {
	rest := l.src[l.pos:]
	switch {
	case strings.HasPrefix(rest, "-"+tag):
		stripped := trimLeft(rest[1+len(tag):])
		l.pos = len(l.src) - len(stripped)
	case strings.HasPrefix(rest, "+"+tag) && tag != "}}":
		l.pos += 1 + len(tag)
	case strings.HasPrefix(rest, tag):
		l.pos += len(tag)
		if tag != "}}" && l.pos < len(l.src) && l.src[l.pos] == '\n' {
			l.pos++
		}
	default:
		return false
	}
	l.lineStart = l.src[l.pos-1] == '\n'
	return true
}

func (l *lexer) comment() error {
	k := strings.Index(l.src[l.pos:], "#}")
	if k < 0 {
		return l.errorf("a comment is not closed with #}")
	}
	l.pos += k
	if k > 0 && strings.IndexByte("-+", l.src[l.pos-1]) >= 0 {
		l.pos--
	}
	l.end("#}")
	return nil
}

// raw handles {% raw %} ... {% endraw %}; false when the tag is another one.
func (l *lexer) raw() (bool, error) {
	rest := trimLeft(l.src[l.pos:])
	if !strings.HasPrefix(rest, "raw") {
		return false, nil
	}
	rest = trimLeft(rest[len("raw"):])
	switch {
	case strings.HasPrefix(rest, "-%}"):
		rest = trimLeft(rest[3:])
	case strings.HasPrefix(rest, "%}"):
		rest = rest[2:]
	default:
		return false, nil
	}
	begin := len(l.src) - len(rest)
	for i := begin; ; i++ {
		k := strings.Index(l.src[i:], "{%")
		if k < 0 {
			return true, l.errorf("{%% raw %%} is not closed with {%% endraw %%}")
		}
		i += k
		j, sign := i+2, byte(0)
		if j < len(l.src) && (l.src[j] == '-' || l.src[j] == '+') {
			sign = l.src[j]
			j++
		}
		tail := trimLeft(l.src[j:])
		if !strings.HasPrefix(tail, "endraw") {
			continue
		}
		tail = trimLeft(tail[len("endraw"):])
		l.pos = len(l.src) - len(tail)
		if !l.end("%}") {
			continue
		}
		started := l.lineStart
		l.lineStart = false
		l.text(l.src[begin:i], '%', sign)
		l.lineStart = started
		return true, nil
	}
}

const maxName = 256 // bytes of a name

// operators, longest first.
var operators = [...]string{"//", "**", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

// inside reads the tokens of a tag up to its end.
func (l *lexer) inside(end string, endKind kind) error {
	depth := 0
	for l.pos < len(l.src) {
		r, n := utf8.DecodeRuneInString(l.src[l.pos:])
		if isSpace(r) {
			l.pos += n
			continue
		}
		if depth == 0 && l.end(end) {
			l.emit(endKind, "")
			return nil
		}
		switch {
		case r >= '0' && r <= '9':
			l.number()
		case r == '_' || unicode.IsLetter(r):
			start := l.pos
			for l.pos < len(l.src) {
				r, n := utf8.DecodeRuneInString(l.src[l.pos:])
				if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
					break
				}
				l.pos += n
			}
			if l.pos-start > maxName {
				return l.errorf("the name %.20s... is longer than %d bytes", l.src[start:l.pos], maxName)
			}
			l.emit(tokName, l.src[start:l.pos])
		case r == '"' || r == '\'':
			if err := l.quoted(byte(r)); err != nil {
				return err
			}
		default:
			op := l.operator()
			switch op {
			case "":
				return l.errorf("unexpected character %q", r)
			case "(", "[", "{":
				depth++
			case ")", "]", "}":
				depth--
			}
			if depth < 0 {
				return l.errorf("%q closes nothing", op)
			}
			l.emit(tokOp, op)
		}
	}
	return l.errorf("a tag is not closed with %s", end)
}

func (l *lexer) operator() string {
	for _, op := range operators {
		if strings.HasPrefix(l.src[l.pos:], op) {
			l.pos += len(op)
			return op
		}
	}
	return ""
}

func (l *lexer) number() {
	start := l.pos
	digits := func() {
		for l.pos < len(l.src) && (l.src[l.pos] >= '0' && l.src[l.pos] <= '9' || l.src[l.pos] == '_') {
			l.pos++
		}
	}
	digit := func(i int) bool { return i < len(l.src) && l.src[i] >= '0' && l.src[i] <= '9' }
	digits()
	k := tokInt
	if l.pos < len(l.src) && l.src[l.pos] == '.' && digit(l.pos+1) {
		k = tokFloat
		l.pos++
		digits()
	}
	if l.pos < len(l.src) && l.src[l.pos]|0x20 == 'e' {
		i := l.pos + 1
		if i < len(l.src) && (l.src[i] == '+' || l.src[i] == '-') {
			i++
		}
		if digit(i) {
			k = tokFloat
			l.pos = i
			digits()
		}
	}
	l.emit(k, strings.ReplaceAll(l.src[start:l.pos], "_", ""))
}

func (l *lexer) quoted(quote byte) error {
	for i := l.pos + 1; i < len(l.src); i++ {
		switch l.src[i] {
		case '\\':
			i++
		case quote:
			text := unescape(l.src[l.pos+1 : i])
			l.pos = i + 1
			l.emit(tokString, text)
			return nil
		}
	}
	return l.errorf("a string is not closed with %c", quote)
}

// unescape reads Python's escapes; unknown ones stay as they are.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	simple := map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': `\`, '\'': "'", '"': `"`,
		'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': ""}
	hexLen := map[byte]int{'x': 2, 'u': 4, 'U': 8}
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		c := s[i]
		if t, ok := simple[c]; ok {
			b.WriteString(t)
		} else if n := hexLen[c]; n > 0 && i+n < len(s) && isHex(s[i+1:i+1+n]) {
			b.WriteRune(rune(parseBase(s[i+1:i+1+n], 16)))
			i += n
		} else if c >= '0' && c <= '7' {
			n := 1
			for n < 3 && i+n < len(s) && s[i+n] >= '0' && s[i+n] <= '7' {
				n++
			}
			b.WriteRune(rune(parseBase(s[i:i+n], 8)))
			i += n - 1
		} else {
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String()
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func parseBase(s string, base int64) (n int64) {
	for i := range len(s) {
		c := int64(s[i])
		switch {
		case c >= 'a':
			c -= 'a' - 10
		case c >= 'A':
			c -= 'A' - 10
		default:
			c -= '0'
		}
		n = n*base + c
	}
	return n
}
