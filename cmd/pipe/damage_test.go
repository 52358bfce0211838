package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// damage flips a bit in the first file below a directory whose name ends so:
// damage DIR ENDING.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage DIR ENDING")
	}
	done := errors.New("done")
	err := filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, args[1]) || strings.HasSuffix(path, ".series.json") {
			return err
		}
		b, err := os.ReadFile(path)
		ts.Check(err)
		b[len(b)/2] ^= 1
		ts.Check(os.Remove(path))
		ts.Check(os.WriteFile(path, b, 0o444))
		return done
	})
	if err != done {
		ts.Fatalf("nothing to damage: %v", err)
	}
}

// leakKind makes what a file says that is not part of its key, as no stage
// should.
var leakKind = stage.Kind{
	Name: "leak", Doc: labDoc, Version: 1, New: func() stage.Stage { return &leak{} },
	Outputs: []stage.Output{{Name: "rows", Type: artifact.Dataset, Doc: "One row"}},
}

type leak struct {
	File string `hcl:"file" doc:"What to read"`
}

func (*leak) Check() error { return nil }

func (s *leak) Run(_ context.Context, env *stage.Env) error {
	b, err := os.ReadFile(filepath.Join(env.Dir, s.File))
	if err != nil {
		return err
	}
	w, err := env.Create("rows")
	if err != nil {
		return err
	}
	return artifact.Append(w, artifact.Row{Text: string(b), Gold: -1})
}
