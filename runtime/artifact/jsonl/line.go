package jsonl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"pipe/runtime/artifact"
)

// maxLine is the longest line that is read, in bytes.
const maxLine = 64 << 20

// Read calls yield for the row of each line of in, until it fails; empty lines
// are skipped. It reads what View wrote as it was; a row without an id or a source
// is known by its place, name:LINE. unused is as in Row.
func Read(ctx context.Context, in io.Reader, name string, unused Unused, yield func(artifact.Row) error) error {
	buf := bufio.NewReaderSize(in, 1<<16)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := Line(buf)
		if err != nil && err != io.EOF {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
		last := err == io.EOF
		if line = bytes.TrimSpace(line); len(line) > 0 {
			row, err := parse(line, unused)
			if err != nil {
				return fmt.Errorf("%s:%d: %w", name, n, err)
			}
			at := fmt.Sprintf("%s:%d", name, n)
			if row.ID == "" {
				row.ID = at
			}
			if row.Source == "" {
				row.Source = at
			}
			if err := yield(row); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

func parse(line []byte, unused Unused) (artifact.Row, error) {
	if !utf8.Valid(line) {
		return artifact.Row{}, errors.New("the line is not UTF-8")
	}
	if at := HalfAt(line); at >= 0 {
		return artifact.Row{}, fmt.Errorf("byte %d of the line: the escape %s is half of a character: its other half is missing", at+1, line[at:at+6])
	}
	o, err := Object(line)
	if err != nil {
		return artifact.Row{}, err
	}
	source, given := o["source"].(string)
	if given {
		delete(o, "source")
	}
	if rest, ok := o["meta"].(map[string]any); ok {
		delete(o, "meta")
		for k, v := range rest {
			if _, taken := o[k]; !taken && !slices.Contains(Fields, k) {
				o[k] = v
			}
		}
	}
	row, err := Row(o, nil, unused)
	row.Source = source
	return row, err
}

// Line returns the next line without its end; io.EOF comes with the last.
func Line(b *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxLine {
			return nil, fmt.Errorf("the line is longer than %d MiB", maxLine>>20)
		}
	}
}

// Object parses one JSON object that fills raw. Numbers stay as written.
func Object(raw []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, Reason(err)
	}
	if d.More() || len(bytes.TrimSpace(raw[d.InputOffset():])) > 0 {
		return nil, fmt.Errorf("there is more after the JSON object, at byte %d of the line", d.InputOffset()+1)
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("is %s; each row must be a JSON object", jsonType(v))
	}
	return o, nil
}

// HalfAt returns the offset of the first \u escape in JSON text that stands for one
// half of a surrogate pair without the other, which a cut string leaves behind and
// decoding takes for U+FFFD; -1 when there is none.
func HalfAt(raw []byte) int {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		switch unit := escaped(raw[i:]); {
		case !utf16.IsSurrogate(unit):
			i++ // what is escaped may be a backslash
		case utf16.DecodeRune(unit, escaped(raw[i+6:])) == utf8.RuneError:
			return i
		default:
			i += 11
		}
	}
	return -1
}

// escaped returns the code unit of the \u escape that b begins with; 0 when it
// begins with none.
func escaped(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}

// Reason says where in the text the error is.
func Reason(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("broken JSON: it ends in the middle of the object")
	case errors.As(err, &syntax):
		return fmt.Errorf("broken JSON at byte %d: %v", syntax.Offset, err)
	}
	return fmt.Errorf("broken JSON: %w", err)
}

func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	default:
		return "an object"
	}
}
