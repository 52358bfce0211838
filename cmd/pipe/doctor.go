package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

// A finding is one line of pipe doctor.
type finding struct {
	Type   string `json:"type"` // "check"
	Area   string `json:"area"` // device, store, pipeline, network or versions
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warn or fail
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"`
}

// A doctor collects findings.
type doctor struct {
	t        *app
	o        *options
	list     []finding
	prog     *lang.Program // nil without a valid pipeline
	timeout  time.Duration // of each question to the network
	network  bool          // ask the hub even if the pipeline does not need it
	getenv   func(string) (string, bool)
	storeDir string
}

const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
)

func (d *doctor) ok(area, name, format string, args ...any) {
	d.add(area, name, statusOK, "", format, args...)
}

func (d *doctor) add(area, name, status, advice, format string, args ...any) {
	d.list = append(d.list, finding{"check", area, name, status, fmt.Sprintf(format, args...), advice})
}

func runDoctor(ctx context.Context, t *app, args []string) int {
	d := &doctor{t: t, getenv: os.LookupEnv}
	o, pos, err := parse(t, "doctor", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.json, "json", false, "print one JSON object a line")
		fs.BoolVar(&d.network, "network", false, "ask the hub of models even if the pipeline has none from there")
		fs.DurationVar(&d.timeout, "timeout", 10*time.Second, "longest `WAIT` for an answer from the network")
	})
	if err != nil {
		return usageCode(err)
	}
	d.o = o
	d.storeDir = storeDirOf(o, pipelineDir(pos[0]))
	d.versions()
	if err := d.device(); err != nil {
		t.errorf("%v", err)
		return setupCode(err)
	}
	d.store()
	d.pipeline(pos[0])
	d.reach(ctx)
	return d.report()
}

// report prints the findings and returns the exit code.
func (d *doctor) report() int {
	code, warnings, failures := exitOK, 0, 0
	lines := jsonLines(d.t.out)
	var g grid
	for _, f := range d.list {
		switch f.Status {
		case statusWarn:
			warnings++
		case statusFail:
			failures, code = failures+1, exitFailed
		}
		if d.o.json {
			lines.Encode(f)
			continue
		}
		g.add(f.Status, f.Area, f.Name, f.Found)
		if f.Advice != "" {
			g.add("", "", "", "→ "+f.Advice)
		}
	}
	if !d.o.json {
		g.write(d.t.out)
		fmt.Fprintf(d.t.out, "%s, %s, %s\n", counted(int64(len(d.list)), "check"), counted(int64(warnings), "warning"), counted(int64(failures), "failure"))
	}
	return code
}

func (d *doctor) versions() {
	d.ok("versions", "pipe", "%s, %s, %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	var formats, kinds []string
	for _, name := range sortedKeys(engine.Formats()) {
		formats = append(formats, fmt.Sprintf("%s %d", name, engine.Formats()[name]))
	}
	d.ok("versions", "formats", "%s", strings.Join(formats, ", "))
	for _, k := range d.t.kinds {
		kinds = append(kinds, fmt.Sprintf("%s %d", k.Name, k.Version))
	}
	d.ok("versions", "kinds", "%s", strings.Join(kinds, ", "))
}

// version is that of the program, or for a build of a checkout its commit.
func version() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	v := bi.Main.Version
	for _, s := range bi.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return v
}

// pipeline checks the pipeline file, if there is one, and its secrets.
func (d *doctor) pipeline(path string) {
	if path == "." {
		if list, err := pipelineFiles([]string{path}); err != nil || len(list) == 0 {
			d.ok("pipeline", "file", "none here; pipe doctor FILE checks one")
			return
		}
	}
	vars, err := variables(d.o)
	if err != nil {
		d.add("pipeline", "file", statusFail, "", "%v", err)
		return
	}
	p, err := openPins(d.o, path)
	if err != nil {
		d.add("pipeline", "lock", statusFail, "", "%v", err)
		return
	}
	prog, diags := lang.Load(path, d.t.kinds, lang.Options{Vars: vars, VarFiles: d.o.varFiles, Env: os.LookupEnv, Module: p.module})
	if diags.HasErrors() {
		first := diags.Errs()[0]
		d.add("pipeline", "file", statusFail, "pipe validate shows them with their lines",
			"%s has %s; the first: %v", path, counted(int64(len(diags.Errs())), "mistake"), first)
		return
	}
	d.prog = prog
	d.ok("pipeline", "file", "%s is valid: %s", path, plural(countStages(prog)))
	seen := map[string]bool{}
	for _, n := range prog.Nodes {
		if n.Teacher == nil || n.Teacher.APIKeyEnv == "" || seen[n.Teacher.APIKeyEnv] {
			continue
		}
		name := n.Teacher.APIKeyEnv
		seen[name] = true
		if v, _ := d.getenv(name); strings.TrimSpace(v) == "" {
			d.add("pipeline", "secret", statusFail, "export "+name+"=..., in the shell or the service that starts pipe", "%s, the key of %s, is not set", name, n.Addr)
		} else {
			d.ok("pipeline", "secret", "%s, the key of %s, is set", name, n.Addr)
		}
	}
}

// variables reads the --var flags.
func variables(o *options) (map[string]string, error) {
	vars := map[string]string{}
	for _, v := range o.vars {
		k, val, ok := strings.Cut(v, "=")
		if !ok {
			return nil, errors.New("--var " + v + ": write NAME=VALUE")
		}
		vars[k] = val
	}
	return vars, nil
}
