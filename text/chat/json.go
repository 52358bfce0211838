package chat

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
)

// jsonStyle is how json.dumps lays a value out.
type jsonStyle struct {
	item, key string // separators: ", " and ": " in Python
	indent    string // one level; with pretty only
	pretty    bool
	ascii     bool // escape everything beyond ASCII
	sortKeys  bool
	in        *interp // counts what is written; nil counts nothing
}

// dumps is Python's json.dumps.
func dumps(v Value, style jsonStyle) (string, error) {
	var b strings.Builder
	err := style.write(&b, v, 0)
	return b.String(), err
}

func (s *jsonStyle) write(b *strings.Builder, v Value, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("tojson: a value is nested more than %d levels deep", maxNesting)
	}
	s.in.tick(0)
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case int:
		b.WriteString(strconv.Itoa(v))
	case float64:
		switch {
		case math.IsNaN(v):
			b.WriteString("NaN")
		case math.IsInf(v, 1):
			b.WriteString("Infinity")
		case math.IsInf(v, -1):
			b.WriteString("-Infinity")
		default:
			b.WriteString(floatRepr(v))
		}
	case string:
		s.text(b, v)
	case []Value:
		return s.list(b, v, depth)
	case tuple:
		return s.list(b, v, depth)
	case *Dict:
		return s.dict(b, v, depth)
	default:
		return fmt.Errorf("tojson: a value of type %s has no JSON form", typeName(v))
	}
	return nil
}

func (s *jsonStyle) list(b *strings.Builder, list []Value, depth int) error {
	if len(list) == 0 {
		b.WriteString("[]")
		return nil
	}
	b.WriteByte('[')
	for i, e := range list {
		s.next(b, i, depth+1)
		if err := s.write(b, e, depth+1); err != nil {
			return err
		}
	}
	s.line(b, depth)
	b.WriteByte(']')
	return nil
}

func (s *jsonStyle) dict(b *strings.Builder, d *Dict, depth int) error {
	if d.Len() == 0 {
		b.WriteString("{}")
		return nil
	}
	b.WriteByte('{')
	keys := d.keys
	if s.sortKeys {
		keys = sortedStrings(keys)
	}
	for i, k := range keys {
		s.next(b, i, depth+1)
		s.text(b, k)
		s.in.tick(len(s.key))
		b.WriteString(s.key)
		if err := s.write(b, d.vals[k], depth+1); err != nil {
			return err
		}
	}
	s.line(b, depth)
	b.WriteByte('}')
	return nil
}

func (s *jsonStyle) next(b *strings.Builder, i, depth int) {
	if i > 0 {
		s.in.tick(len(s.item))
		b.WriteString(s.item)
	}
	s.line(b, depth)
}

func (s *jsonStyle) line(b *strings.Builder, depth int) {
	if s.pretty {
		s.in.tick(depth * len(s.indent))
		b.WriteByte('\n')
		for range depth {
			b.WriteString(s.indent)
		}
	}
}

func (s *jsonStyle) text(b *strings.Builder, text string) {
	s.in.tick(6 * len(text)) // as long as all of it escaped
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < 0x20:
			fmt.Fprintf(b, `\u%04x`, r)
		case r >= 0x10000 && s.ascii:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u%04x\u%04x`, hi, lo)
		case r >= 0x7F+1 && s.ascii:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
