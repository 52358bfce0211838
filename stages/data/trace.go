package data

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// Tell implements stage.Teller: it says in which file and line a row, or the
// byte At of its text, stands.
func (s *spec) Tell(ctx context.Context, env *stage.Env, made stage.Outputs, p stage.Place) (*stage.Told, error) {
	a, err := made(p.Output)
	if err != nil {
		return nil, err
	}
	n := 0
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		if n++; n <= p.Row {
			continue
		}
		at, err := s.stands(ctx, env, row, max(0, p.At))
		if err != nil {
			return nil, err
		}
		return &stage.Told{Facts: []stage.Fact{{What: "source", Text: at}}, Parent: -1}, nil
	}
	return nil, fmt.Errorf("the dataset has %s, the first being 0; there is no row %d", stage.Count(n, "row"), p.Row)
}

// errFound ends the reading of a file.
var errFound = errors.New("found")

// stands returns FILE:LINE of a byte of a row's text. Rows of tables and JSON
// know their line; that of a text is counted in its file, which is read again:
// it is what it was when the row was made, or the row would not be up to date.
func (s *spec) stands(ctx context.Context, env *stage.Env, row artifact.Row, at int) (string, error) {
	if row.ID != row.Source && !strings.HasPrefix(row.ID, row.Source+"#") || strings.Contains(filepath.Base(row.Source), ":") {
		return row.Source, nil
	}
	r := reader{spec: s, path: filepath.Join(env.Dir, filepath.FromSlash(row.Source)), name: row.Source}
	if format, err := r.format(); err != nil || format != "text" {
		return row.Source, nil
	}
	line := 0
	err := r.read(ctx, func(whole artifact.Row) error {
		pos := 0
		for _, piece := range s.cut(whole) {
			begin, end := stage.Follow(whole.Text, pos, piece.Text)
			if pos = end; piece.ID != row.ID {
				continue
			}
			at = min(at, len(piece.Text))
			_, mid := stage.Follow(whole.Text, begin, piece.Text[:at])
			if at > 0 {
				begin, _ = stage.Follow(whole.Text, mid, piece.Text[at:])
			}
			line = 1 + strings.Count(whole.Text[:begin], "\n")
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return "", err
	}
	if line == 0 {
		return row.Source, nil
	}
	return fmt.Sprintf("%s:%d", row.Source, line), nil
}
