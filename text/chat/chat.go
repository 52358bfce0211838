package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Message is one turn of a conversation.
type Message struct {
	Role    string
	Content string
	// Fields are further fields in their order, such as "tool_calls". A field
	// "role" or "content" there replaces the one above, so that the content
	// may be a list of parts, or nil.
	Fields *Dict
}

// An Input is what a template renders.
type Input struct {
	Messages            []Message
	Tools               []Value           // function descriptions; none is None
	Documents           []Value           // none is None
	AddGenerationPrompt bool              // end with the beginning of the assistant's turn
	Special             map[string]string // "bos_token": "<s>", ...
	// Date is what strftime_now tells; the zero Date is 26 July 2024, which
	// the Llama 3 templates also fall back to. Rendering never reads the clock.
	Date time.Time
	Vars map[string]Value // anything else that the template may ask for
}

// A Rendered is a conversation as text.
type Rendered struct {
	Text string
	// Assistant are the spans [start, end) of bytes of Text that the
	// assistant says, its end-of-turn token included, ascending.
	Assistant [][2]int
}

// A Template is a parsed chat template. It is safe for use by several
// goroutines.
type Template struct {
	source     string
	body       []node
	generation bool
}

const maxSource = 1 << 20 // bytes of a template

// Parse parses a template. The error names the line; it is a SyntaxError unless
// the template is too large.
func Parse(src string) (*Template, error) {
	if len(src) > maxSource {
		return nil, fmt.Errorf("chat template: %d bytes; at most %d are allowed", len(src), maxSource)
	}
	body, generation, err := parseTemplate(src)
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return &Template{source: src, body: body, generation: generation}, nil
}

// Source returns the text that was parsed.
func (t *Template) Source() string { return t.source }

// HasGeneration reports whether the template marks what the assistant says
// with {% generation %}.
func (t *Template) HasGeneration() bool { return t.generation }

// Text renders a conversation without looking for the assistant's spans.
func (t *Template) Text(in Input) (string, error) {
	text, _, err := t.run(in)
	return text, err
}

// Render renders a conversation. Where the template has no {% generation %}
// tags, the assistant's spans come from rendering the conversation up to each
// of its turns; it is an error when the template does not render a beginning
// of the conversation as the beginning of its text.
func (t *Template) Render(in Input) (Rendered, error) {
	text, spans, err := t.run(in)
	if err != nil {
		return Rendered{}, err
	}
	if !t.generation {
		if spans, err = t.deriveSpans(in, text); err != nil {
			return Rendered{}, err
		}
	}
	return Rendered{text, spans}, nil
}

// run executes the template once.
func (t *Template) run(in Input) (out string, spans [][2]int, err error) {
	globals, err := in.globals()
	if err != nil {
		return "", nil, fmt.Errorf("chat template: %w", err)
	}
	i := &interp{out: &strings.Builder{}, date: in.Date, global: globals, filters: filters, tests: tests}
	if i.date.IsZero() {
		i.date = time.Date(2024, time.July, 26, 0, 0, 0, 0, time.UTC)
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case renderError:
			out, spans, err = "", nil, fmt.Errorf("chat template: line %d: %w", i.line, r.error)
		default:
			panic(r)
		}
	}()
	i.run(t.body, &scope{})
	return i.out.String(), i.spans, nil
}

// globals returns the names that a template finds defined.
func (in *Input) globals() (map[string]Value, error) {
	g := map[string]Value{
		"add_generation_prompt": in.AddGenerationPrompt,
		"tools":                 nil, "documents": nil,
		"raise_exception": function{"raise_exception", func(in *interp, a args) Value {
			fail("the template refuses this conversation: %s", in.str(a.take(0, "message", "")))
			return nil
		}},
		"strftime_now": function{"strftime_now", strftimeNow},
		"namespace":    function{"namespace", makeNamespace},
		"dict":         function{"dict", func(in *interp, a args) Value { return makeNamespace(in, a).(namespace).Dict }},
		"range":        function{"range", makeRange},
	}
	for k, v := range in.Special {
		g[k] = v
	}
	set := func(name string, v Value) error {
		c, err := clean(v, 0)
		if err != nil {
			return fmt.Errorf("input %s: %w", name, err)
		}
		g[name] = c
		return nil
	}
	for k, v := range in.Vars {
		if err := set(k, v); err != nil {
			return nil, err
		}
	}
	for _, l := range []struct {
		name string
		list []Value
	}{{"tools", in.Tools}, {"documents", in.Documents}} {
		if len(l.list) > 0 {
			if err := set(l.name, l.list); err != nil {
				return nil, err
			}
		}
	}
	messages := make([]Value, len(in.Messages))
	for i, m := range in.Messages {
		messages[i] = m.dict()
	}
	return g, set("messages", messages)
}

func (m *Message) dict() *Dict {
	var reasoning Value
	if m.Fields != nil {
		for _, k := range []string{"reasoning", "thinking", "reasoning_content"} {
			if v, ok := m.Fields.Get(k); ok && v != nil {
				reasoning = v
			}
		}
	}
	d := NewDict()
	if reasoning != nil { // transformers gives it under these names too
		d.Set("thinking", reasoning)
	}
	d.Set("role", m.Role)
	d.Set("content", m.Content)
	if m.Fields != nil {
		for _, k := range m.Fields.keys {
			d.Set(k, m.Fields.vals[k])
		}
	}
	if reasoning != nil {
		d.Set("reasoning_content", reasoning)
	}
	return d
}

func makeNamespace(in *interp, a args) Value {
	d := NewDict()
	for _, p := range a.pos {
		from, ok := p.(*Dict)
		if !ok {
			fail("namespace and dict take mappings, not values of type %s", typeName(p))
		}
		in.tick(16 * from.Len())
		for _, k := range from.keys {
			d.Set(k, from.vals[k])
		}
	}
	if a.kw != nil {
		for _, k := range a.kw.keys {
			d.Set(k, a.kw.vals[k])
		}
	}
	return namespace{d}
}

func makeRange(in *interp, a args) Value {
	lo, hi, step := int64(0), int64(0), int64(1)
	switch len(a.pos) {
	case 1:
		hi = integer(a.pos[0])
	case 2, 3:
		lo, hi = integer(a.pos[0]), integer(a.pos[1])
		if len(a.pos) == 3 {
			step = integer(a.pos[2])
		}
	default:
		fail("range takes one to three arguments, not %d", len(a.pos))
	}
	if step == 0 {
		fail("a range step is zero")
	}
	out := []Value{}
	for i := lo; step > 0 && i < hi || step < 0 && i > hi; i += step {
		if len(out) >= 100000 { // the sandbox's limit
			fail("a range of more than 100000 numbers")
		}
		in.tick(16)
		out = append(out, i)
	}
	return out
}

func strftimeNow(in *interp, a args) Value {
	format := text(a.take(0, "format", nil))
	in.tick(16 * len(format)) // no directive writes more than 16 times its length
	return strftime(in.date, format)
}

// strftime is Python's, in the C locale.
func strftime(t time.Time, format string) string {
	layouts := map[byte]string{
		'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon",
		'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700",
		'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		c := format[i]
		pad := true
		if c == '-' && i+1 < len(format) {
			i++
			c, pad = format[i], false
		}
		switch layout, ok := layouts[c]; {
		case c == '%':
			b.WriteByte('%')
		case ok && pad:
			b.WriteString(t.Format(layout))
		case ok:
			s := strings.TrimLeft(t.Format(layout), "0 ")
			if s == "" {
				s = "0"
			}
			b.WriteString(s)
		default:
			b.WriteString("%" + string(c))
		}
	}
	return b.String()
}

// deriveSpans finds the assistant's turns by rendering beginnings of the
// conversation: a turn goes from the end of the generation prompt to the end
// of its end-of-turn token.
func (t *Template) deriveSpans(in Input, full string) ([][2]int, error) {
	var spans [][2]int
	for i, m := range in.Messages {
		if role, _ := m.dict().Get("role"); role != "assistant" {
			continue
		}
		part := in
		part.Messages, part.AddGenerationPrompt = in.Messages[:i], true
		before, err := t.Text(part)
		if err != nil {
			return nil, fmt.Errorf("find turn %d of the assistant: render what precedes it: %w", i, err)
		}
		part.Messages, part.AddGenerationPrompt = in.Messages[:i+1], false
		after, err := t.Text(part)
		if err != nil {
			return nil, fmt.Errorf("find turn %d of the assistant: render up to it: %w", i, err)
		}
		if !strings.HasPrefix(after, before) || !strings.HasPrefix(full, after) {
			part.Messages = in.Messages[:i]
			if without, err := t.Text(part); err == nil && without == after {
				return nil, fmt.Errorf("the chat template leaves out message %d, which is the assistant's", i+1)
			}
			if !strings.HasPrefix(after, before) {
				return nil, fmt.Errorf("find turn %d of the assistant: %w%s", i, Parts(before, after), orMarks)
			}
			return nil, historyError{i}
		}
		spans = append(spans, [2]int{len(before), turnEnd(after, len(before), m.Content, in.Special)})
	}
	return spans, nil
}

// ErrHistory is in the chain of the error of Render and Tokenize when a template
// without {% generation %} does not render the beginning of a conversation as it does
// when more follows. [Template.TokenizeLast] needs no such thing.
var ErrHistory = errors.New("the chat template does not render the beginning of a conversation the same way when more follows")

// orMarks is what helps too where a template asks for a turn in other words than it begins it with.
const orMarks = "; or use a template that marks the assistant's words with {% generation %}"

type historyError struct{ turn int }

// Error implements error.
func (e historyError) Error() string {
	return fmt.Sprintf("find turn %d of the assistant: %s; use a template that marks the assistant's words with {%% generation %%}", e.turn, ErrHistory)
}

// Unwrap returns ErrHistory.
func (historyError) Unwrap() error { return ErrHistory }

// lastSpans returns what of full the assistant says in the turn that ends in: what
// follows the text that asks for it.
func (t *Template) lastSpans(in Input, full string, marked [][2]int) ([][2]int, error) {
	part := in
	part.Messages, part.AddGenerationPrompt = in.Messages[:len(in.Messages)-1], true
	before, err := t.Text(part)
	if err != nil {
		return nil, fmt.Errorf("find the last turn: render what precedes it: %w", err)
	}
	if t.generation {
		same := 0
		for same < min(len(before), len(full)) && before[same] == full[same] {
			same++
		}
		return slices.DeleteFunc(slices.Clone(marked), func(a [2]int) bool { return a[1] <= same }), nil
	}
	if !strings.HasPrefix(full, before) {
		return nil, fmt.Errorf("find the last turn: %w%s", Parts(before, full), orMarks)
	}
	return [][2]int{{len(before), turnEnd(full, len(before), in.Messages[len(in.Messages)-1].Content, in.Special)}}, nil
}

// turnEnd leaves out whitespace after the end-of-turn token at the end of text:
// one of the special tokens, or a word in angle brackets that is not the end of
// what was said, as </html> may be.
func turnEnd(text string, start int, said string, special map[string]string) int {
	turn := trimRight(text[start:])
	for _, s := range special {
		if s != "" && strings.HasSuffix(turn, s) {
			return start + len(turn)
		}
	}
	if said = trimRight(said); said != "" && strings.HasSuffix(turn, said) {
		return len(text)
	}
	if open := strings.LastIndexByte(turn, '<'); open >= 0 && strings.HasSuffix(turn, ">") && !slices.ContainsFunc([]rune(turn[open:]), isSpace) {
		return start + len(turn)
	}
	return len(text)
}
