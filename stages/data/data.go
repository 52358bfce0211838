// Package data is the stage that reads files into a dataset: text files, JSON
// lines, JSON arrays and tables, plain or compressed with gzip.
package data

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
	"pipe/runtime/stage"
)

//go:embed README.md
var doc string

// Kind is the stage kind "data".
var Kind = stage.Kind{
	Name: "data", Doc: doc, Version: 4,
	Outputs: []stage.Output{{Type: artifact.Dataset, Rows: artifact.PlainRows, Doc: "The rows, in the order of the files and of the lines in them"}},
	New:     newStage,
}

// spec is the block.
type spec struct {
	Source      string            `hcl:"source,optional" doc:"A file or a pattern of files, relative to the pipeline file: ./docs/*.md, ./rows.jsonl, ./**/*.txt"`
	Files       []string          `hcl:"sources,optional" doc:"Several files or patterns, instead of source; a file that two match is read once"`
	Format      string            `hcl:"format,optional" doc:"text, jsonl, json, csv or tsv; by default the end of the file name decides"`
	Map         map[string]string `hcl:"map,optional" doc:"Which column a field is read from: { question = \"q\" }; dots go into objects and lists: \"instances.0.output\""`
	Split       string            `hcl:"split,optional" doc:"none, paragraph (blank lines) or line: how documents are cut into rows"`
	MaxChars    int               `hcl:"max_chars,optional" doc:"With split: neighbouring pieces are joined up to this many characters, and longer ones cut at white space; 0: each piece is a row"`
	InvalidUTF8 string            `hcl:"invalid_utf8,optional" doc:"error, or replace to read bytes that are not UTF-8, and half characters in JSON escapes, as U+FFFD"`
	Reasoning   string            `hcl:"reasoning,optional" json:",omitempty" doc:"keep: what the assistant thought stays in its turns, between <think> and </think>; drop: it is left out"`
	Shuffle     bool              `hcl:"shuffle,optional" doc:"Put the rows in an order drawn from the pipeline's seed"`
	Limit       int               `hcl:"limit,optional" doc:"Keep this many rows, the first after shuffling; 0: all"`
}

// dropThoughts is a value of Reasoning.
const dropThoughts = "drop"

func newStage() stage.Stage { return &spec{Split: "none", InvalidUTF8: "error"} }

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	bad(s.Source == "" && len(s.Files) == 0, "source", "is missing; name a file or a pattern, such as \"./docs/*.md\"")
	bad(s.Source != "" && len(s.Files) > 0, "sources", "cannot stand beside source; put all of them into sources")
	field := "source"
	if len(s.Files) > 0 {
		field = "sources"
	}
	for _, p := range s.Patterns() {
		if err := checkPattern(p); err != nil {
			bad(true, field, "%v", err)
		}
	}
	bad(s.Format != "" && !slices.Contains(formats, s.Format), "format", "is %q; must be one of %q", s.Format, formats)
	bad(!slices.Contains([]string{"none", "paragraph", "line"}, s.Split), "split", "is %q; must be \"none\", \"paragraph\" or \"line\"", s.Split)
	bad(s.MaxChars < 0, "max_chars", "is %d; must be 0 or more", s.MaxChars)
	bad(s.MaxChars > 0 && s.Split == "none", "max_chars", "needs split = \"paragraph\" or \"line\"")
	bad(s.InvalidUTF8 != "error" && s.InvalidUTF8 != "replace", "invalid_utf8", "is %q; must be \"error\" or \"replace\"", s.InvalidUTF8)
	bad(!slices.Contains([]string{"", "keep", dropThoughts}, s.Reasoning), "reasoning", "is %q; must be \"keep\", %q or left out", s.Reasoning, dropThoughts)
	bad(s.Limit < 0, "limit", "is %d; must be 0 (all rows) or more", s.Limit)
	for field := range s.Map {
		bad(!slices.Contains(jsonl.Fields, field), "map", "has the field %q; rows have the fields %q", field, jsonl.Fields)
	}
	slices.SortFunc(errs, func(a, b error) int { return compareText(a.Error(), b.Error()) }) // maps have no order
	return errors.Join(errs...)
}

// Patterns implements stage.Patterned.
func (s *spec) Patterns() []string {
	if s.Source != "" {
		return []string{s.Source}
	}
	return s.Files
}

// Sources implements stage.Sourcer.
func (s *spec) Sources(dir string) ([]string, error) { return find(dir, s.Patterns()) }

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	paths, err := s.Sources(env.Dir)
	if err != nil {
		return err
	}
	unused := jsonl.Unused{}
	rows, err := s.read(ctx, env, paths, unused)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s holds no rows", describe(s.Patterns()))
	}
	total := len(rows)
	if s.Shuffle {
		order := model.NewStream(env.Seed, "data.shuffle").Perm(len(rows))
		shuffled := make([]artifact.Row, len(rows))
		for i, j := range order {
			shuffled[i] = rows[j]
		}
		rows = shuffled
	}
	if s.Limit > 0 && s.Limit < len(rows) {
		rows = rows[:s.Limit]
	}
	env.Note("%s from %s", stage.Count(len(rows), "row"), stage.Count(len(paths), "file"))
	if len(rows) < total {
		env.Note("%s left out by limit", stage.Count(total-len(rows), "further row"))
	}
	if len(unused) > 0 {
		env.Note("keys of messages that are not used: %s", unused)
	}
	if n := withImages(rows); n > 0 {
		env.Note("images are not read: of %s with some the text alone is used", stage.Count(n, "row"))
	}
	w, err := env.Create("")
	if err != nil {
		return err
	}
	return artifact.Append(w, rows...)
}

// withImages counts the rows whose columns hold images, as sets of conversations about
// pictures have them: beside the messages.
func withImages(rows []artifact.Row) (n int) {
	for _, r := range rows {
		if !strings.Contains(r.Meta, `"image`) {
			continue
		}
		var columns map[string]json.RawMessage
		if json.Unmarshal([]byte(r.Meta), &columns) != nil {
			continue
		}
		if slices.ContainsFunc([]string{"image", "images"}, func(name string) bool {
			return !slices.Contains([]string{"", "null", "[]", `""`}, string(columns[name]))
		}) {
			n++
		}
	}
	return n
}

// read reads every file and checks that no id occurs twice. It counts the keys
// of messages that no row holds.
func (s *spec) read(ctx context.Context, env *stage.Env, paths []string, unused jsonl.Unused) ([]artifact.Row, error) {
	var rows []artifact.Row
	seen := map[string]string{} // id -> where it was read
	for i, p := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := reader{spec: s, path: p, name: relative(env.Dir, p), unused: unused}
		err := r.read(ctx, func(row artifact.Row) error {
			if err := s.think(&row); err != nil {
				return fmt.Errorf("%s: %w", r.at, err)
			}
			for _, piece := range s.cut(row) {
				if first, twice := seen[piece.ID]; twice {
					return fmt.Errorf("%s: the id %q was already given to %s; ids must be unique in a dataset", r.at, piece.ID, first)
				}
				seen[piece.ID] = r.at
				rows = append(rows, piece)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		env.Progress(int64(i+1), int64(len(paths)), "files")
	}
	return rows, nil
}
