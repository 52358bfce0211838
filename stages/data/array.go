package data

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
)

// array yields a row for each object of a JSON array, in whatever layout. A
// row without an id gets the line on which its object begins, FILE:LINE; the
// second such object of one line FILE:LINE.2, and so on.
func (r *reader) array(in io.Reader, yield func(artifact.Row) error) error {
	b, err := r.whole(in)
	if err != nil {
		return err
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(b) {
		if _, err := r.clean(b, 1); err != nil {
			return err
		}
	}
	a := array{b: b, line: 1}
	if a.next() != '[' {
		return fmt.Errorf("%s:1: must be a JSON array of objects; set format = \"jsonl\" if every line is an object", r.name)
	}
	a.pos++
	if a.next() != ']' {
		if err := r.elements(&a, yield); err != nil {
			return err
		}
	}
	a.pos++
	if a.next(); a.pos < len(b) {
		return fmt.Errorf("%s:%d: there is more after the array, at byte %d of the line", r.name, a.line, a.column(a.pos))
	}
	return nil
}

// elements yields the elements of an array that is not empty, and leaves a at
// the bracket that closes it.
func (r *reader) elements(a *array, yield func(artifact.Row) error) error {
	last, unnamed := 0, 0 // the line of the element before; elements of that line that it gave an id
	for n := 1; ; n++ {
		if a.next() < 0 {
			return fmt.Errorf("%s:%d: the array is not closed", r.name, a.line)
		}
		line, at := a.line, fmt.Sprintf("%s:%d", r.name, a.line)
		where := at
		if line == last {
			where = fmt.Sprintf("%s (element %d of the array)", at, n)
		} else {
			last, unnamed = line, 0
		}
		raw, err := a.element(r.name, where)
		if err != nil {
			return err
		}
		o, err := r.object(raw, line, where)
		if err != nil {
			return err
		}
		row, err := jsonl.Row(o, r.Map, r.unused)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		row.Source = at
		if row.ID == "" {
			if unnamed++; unnamed > 1 {
				row.Source = fmt.Sprintf("%s.%d", at, unnamed)
			}
			row.ID = row.Source
		}
		r.at = where
		if err := yield(row); err != nil {
			return err
		}
		switch a.next() {
		case ']':
			return nil
		case ',':
			a.pos++
		case -1:
			return fmt.Errorf("%s:%d: the array is not closed", r.name, a.line)
		default:
			return fmt.Errorf("%s:%d: broken JSON at byte %d of the line: a comma or the end of the array is missing before %q", r.name, a.line, a.column(a.pos), a.rune())
		}
	}
}

// An array is the text of one while it is read.
type array struct {
	b       []byte
	pos     int // what was read
	line    int // of counted
	counted int // line ends before it are in line
}

// next skips white space and returns the byte that follows, with line at it; -1
// at the end.
func (a *array) next() int {
	for a.pos < len(a.b) && bytes.IndexByte([]byte(" \t\r\n"), a.b[a.pos]) >= 0 {
		a.pos++
	}
	a.line += bytes.Count(a.b[a.counted:a.pos], []byte("\n"))
	a.counted = a.pos
	if a.pos == len(a.b) {
		return -1
	}
	return int(a.b[a.pos])
}

// element returns the value that begins at pos, and moves behind it. Broken
// JSON is reported where it breaks.
func (a *array) element(name, where string) ([]byte, error) {
	rest := a.b[a.pos:]
	d := json.NewDecoder(bytes.NewReader(rest))
	var raw json.RawMessage
	err := d.Decode(&raw)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax) && syntax.Offset > 0 && int(syntax.Offset) <= len(rest):
		at := a.pos + int(syntax.Offset) - 1 // Offset is behind the byte
		line := a.line + bytes.Count(a.b[a.pos:at], []byte("\n"))
		return nil, fmt.Errorf("%s:%d: broken JSON at byte %d of the line: %w", name, line, a.column(at), err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", where, jsonl.Reason(err))
	}
	a.pos += int(d.InputOffset())
	return raw, nil
}

// column counts the bytes of a line from 1.
func (a *array) column(at int) int { return at - bytes.LastIndexByte(a.b[:at], '\n') }

func (a *array) rune() rune {
	c, _ := utf8.DecodeRune(a.b[a.pos:])
	return c
}
