package data

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"pipe/runtime/artifact"
)

// table yields a row for each record of a file of comma- or tab-separated
// values (RFC 4180), whose first record names the columns.
func (r *reader) table(ctx context.Context, in io.Reader, comma rune, yield func(artifact.Row) error) error {
	b, err := r.whole(in)
	if err != nil {
		return err
	}
	s, err := r.clean(b, 1)
	if err != nil {
		return err
	}
	t := csv.NewReader(strings.NewReader(s))
	t.Comma = comma
	header, err := t.Read()
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, tableError(err))
	}
	if err := checkHeader(header); err != nil {
		return fmt.Errorf("%s:1: %w", r.name, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		values, err := t.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, tableError(err))
		}
		line, _ := t.FieldPos(0)
		at := fmt.Sprintf("%s:%d", r.name, line)
		o := make(map[string]any, len(header))
		for i, name := range header {
			o[name] = values[i]
		}
		if err := r.record(o, at, yield); err != nil {
			return err
		}
	}
}

func checkHeader(names []string) error {
	seen := map[string]bool{}
	for i, n := range names {
		if strings.TrimSpace(n) == "" {
			return fmt.Errorf("column %d has no name; the first line must name the columns", i+1)
		}
		if seen[n] {
			return fmt.Errorf("two columns have the name %q", n)
		}
		seen[n] = true
	}
	return nil
}

func tableError(err error) error {
	var p *csv.ParseError
	switch {
	case err == io.EOF:
		return errors.New("is empty; the first line must name the columns")
	case errors.As(err, &p) && errors.Is(err, csv.ErrFieldCount):
		return fmt.Errorf("line %d has another number of fields than the first line", p.StartLine)
	case errors.As(err, &p):
		return fmt.Errorf("line %d: %v", p.Line, p.Err)
	}
	return err
}
