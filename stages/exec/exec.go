// Package exec is the stage that runs a program: what it is given are files,
// and what it writes under $OUT is kept.
package exec

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

//go:embed README.md
var doc string

// Kind is the stage kind "exec".
var Kind = stage.Kind{
	Name: "exec", Doc: doc, Version: 2,
	Outputs: []stage.Output{{Name: "out", Type: artifact.File, Doc: "What was written to $OUT/out; outputs and datasets name others"}},
	New:     func() stage.Stage { return &spec{} },
}

// spec is the block.
type spec struct {
	Command  []string       `hcl:"command" doc:"The program and its arguments; no shell reads them: for one write [\"sh\", \"-c\", \"...\"]"`
	Inputs   stage.Bindings `hcl:"inputs,optional" doc:"What the program is given, by name: $IN_NAME is the path of a file of JSON lines (datasets), of the one file of anything else, or of its directory"`
	Made     []string       `hcl:"outputs,optional" doc:"Files or directories under $OUT that are kept as files; [\"out\"] when datasets is not given either"`
	Datasets []string       `hcl:"datasets,optional" doc:"Files of JSON lines under $OUT that are read as data blocks read them"`
	Files    []string       `hcl:"files,optional" doc:"Files or patterns beside the pipeline file that the program needs, such as \"scripts/*.py\"; the program runs in a directory that holds copies of them and nothing else"`
	Env      []string       `hcl:"env,optional" doc:"Names of further environment variables that the program sees; their values are no part of the key"`
	Revision string         `hcl:"revision,optional" doc:"Any text; change it to run the program again, for example after it was updated"`
	Timeout  string         `hcl:"timeout,optional" json:"-" doc:"Longest time the program may take, such as 10m"`
}

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)
	inputForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	ownNames   = []string{"OUT", "WORK", "SEED", "TMPDIR", "PWD"}
	givenNames = []string{"PATH", "HOME", "LANG"}
)

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	bad(len(s.Command) == 0 || s.Command[0] == "", "command", "names no program; write command = [\"sort\", \"-u\"]")
	for i, c := range s.Command {
		bad(strings.Contains(c, "\x00"), fmt.Sprintf("command[%d]", i), "holds a zero byte")
	}
	for _, b := range s.Inputs {
		bad(!inputForm.MatchString(b.Name), fmt.Sprintf("inputs[%q]", b.Name), "has a name that no variable $IN_... can have; use letters, digits and _")
	}
	seen := map[string]bool{}
	for field, names := range map[string][]string{"outputs": s.Made, "datasets": s.Datasets} {
		for i, name := range names {
			at := fmt.Sprintf("%s[%d]", field, i)
			bad(!nameForm.MatchString(name), at, "is %q; a name has letters, digits, _ and -", name)
			bad(seen[name], at, "is %q, which is written twice", name)
			seen[name] = true
		}
	}
	for i, f := range s.Files {
		_, err := filepath.Match(f, "")
		bad(f == "" || err != nil || !filepath.IsLocal(filepath.FromSlash(f)), fmt.Sprintf("files[%d]", i), "is %q; it must be a file or a pattern below the directory of the pipeline file", f)
	}
	for i, name := range s.Env {
		at := fmt.Sprintf("env[%d]", i)
		bad(!inputForm.MatchString(name), at, "is %q; name a variable, and set its value outside", name)
		bad(slices.Contains(ownNames, name) || strings.HasPrefix(name, "IN_"), at, "is %q, which the stage sets itself", name)
	}
	if s.Timeout != "" {
		d, err := time.ParseDuration(s.Timeout)
		bad(err != nil || d <= 0, "timeout", "is %q; must be a duration such as \"10m\"", s.Timeout)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) }) // maps have no order
	return errors.Join(errs...)
}

// Outputs implements stage.Maker.
func (s *spec) Outputs() []stage.Output {
	var out []stage.Output
	for _, name := range s.made() {
		out = append(out, stage.Output{Name: name, Type: artifact.File, Doc: "$OUT/" + name})
	}
	for _, name := range s.Datasets {
		out = append(out, stage.Output{Name: name, Type: artifact.Dataset, Rows: artifact.PlainRows, Doc: "$OUT/" + name})
	}
	return out
}

// made returns the outputs that are kept as files.
func (s *spec) made() []string {
	if len(s.Made) == 0 && len(s.Datasets) == 0 {
		return []string{"out"}
	}
	return s.Made
}

// Patterns implements stage.Patterned.
func (s *spec) Patterns() []string { return s.Files }

// Sources implements stage.Sourcer: the program's own files are part of the key.
func (s *spec) Sources(dir string) ([]string, error) {
	var all []string
	for i, pattern := range s.Files {
		found, err := filepath.Glob(filepath.Join(escape(dir), filepath.FromSlash(pattern)))
		n := 0
		for _, path := range found {
			info, statErr := os.Stat(path)
			if statErr == nil && info.Mode().IsRegular() {
				all = append(all, path)
				n++
			}
		}
		if err == nil && n == 0 {
			err = fmt.Errorf("%q matches no file in %s", pattern, dir)
			if len(found) > 0 {
				err = fmt.Errorf("%q is a directory; name the files in it, such as %q", pattern, pattern+"/*")
			}
		}
		if err != nil {
			return nil, stage.Fieldf(fmt.Sprintf("files[%d]", i), "%v", err)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// escape makes a directory match itself.
func escape(p string) string {
	if filepath.Separator == '\\' {
		return p
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	r, err := s.prepare(ctx, env)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	if err := r.run(ctx); err != nil {
		return err
	}
	return r.keep(ctx)
}
