package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/rs/zerolog"

	"pipe/model/hub"
	"pipe/model/tiny"
	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
	"pipe/stages"
)

// kinds returns the stage kinds of this program.
var kinds = func() []stage.Kind { return stages.All }

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// options are the flags of the commands that read a pipeline file.
type options struct {
	vars, varFiles  list
	store           string
	device          string
	targets, force  list
	parallelism     int
	keepGoing       bool
	json            bool
	progress        string
	logLevel        string
	detailed, quiet bool
	n               int
	format          string
	check           bool
}

// parse reads flags, which may stand before and after the arguments, and
// checks the number of arguments. On an error it has been printed.
func parse(t *terminal, name string, args []string, want int, extra func(*flag.FlagSet, *options)) (*options, []string, error) {
	o := &options{}
	fs := flag.NewFlagSet("pipe "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(&o.vars, "var", "value of a variable, as `NAME=VALUE`; may be repeated")
	fs.Var(&o.varFiles, "var-file", "`FILE` of variable values; may be repeated")
	fs.StringVar(&o.store, "store", "", "`DIR` of the artifact store (default: $PIPE_STORE, else .pipe beside the pipeline file)")
	fs.StringVar(&o.device, "device", "auto", "auto, cpu or cuda")
	if extra != nil {
		extra(fs, o)
	}
	var pos []string
	for rest := args; ; {
		if err := fs.Parse(rest); err != nil {
			if err == flag.ErrHelp {
				helpCommand(t.out, name, fs)
				return nil, nil, err
			}
			t.errorf("%v; pipe %s --help lists the flags", err, name)
			return nil, nil, errUsage
		}
		rest = fs.Args()
		if len(rest) == 0 {
			break
		}
		pos, rest = append(pos, rest[0]), rest[1:]
	}
	if want >= 0 && len(pos) != want {
		t.errorf("pipe %s takes %s", name, argsOf(name))
		return nil, nil, errUsage
	}
	return o, pos, nil
}

func argsOf(name string) string {
	for _, c := range commands() {
		if c.name == name {
			return c.args
		}
	}
	return ""
}

func helpCommand(w io.Writer, name string, fs *flag.FlagSet) {
	for _, c := range commands() {
		if c.name == name {
			fmt.Fprintf(w, "pipe %s %s: %s.\n\n", c.name, c.args, c.about)
		}
	}
	fs.VisitAll(func(f *flag.Flag) {
		arg, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  --%-22s %s\n", strings.TrimSpace(f.Name+" "+arg), usage)
	})
}

// usageCode is the exit code after parse failed.
func usageCode(err error) int {
	if err == flag.ErrHelp {
		return exitOK
	}
	return exitUsage
}

// load reads the pipeline; on errors they have been printed.
func load(t *terminal, o *options, path string) (*lang.Program, bool) {
	vars := map[string]string{}
	for _, v := range o.vars {
		k, val, ok := strings.Cut(v, "=")
		if !ok {
			t.errorf("--var %s: write NAME=VALUE", v)
			return nil, false
		}
		vars[k] = val
	}
	prog, diags := lang.Load(path, kinds(), lang.Options{Vars: vars, VarFiles: o.varFiles, Env: os.LookupEnv})
	if len(diags) > 0 {
		t.mu.Lock()
		lang.WriteDiagnostics(t.err, prog.Files, diags, t.colour, t.width)
		t.mu.Unlock()
	}
	return prog, !diags.HasErrors()
}

// setup opens the store and returns the engine's options.
func setup(t *terminal, o *options, prog *lang.Program) (engine.Options, func(), error) {
	dir := o.store
	if dir == "" {
		dir = os.Getenv("PIPE_STORE")
	}
	if dir == "" {
		dir = filepath.Join(prog.Dir, ".pipe")
	}
	store, err := artifact.OpenStore(dir)
	if err != nil {
		return engine.Options{}, nil, err
	}
	log, closeLog, err := openLog(store.Dir(), o.logLevel, t.err)
	if err != nil {
		return engine.Options{}, nil, err
	}
	dev, err := openDevice(o.device)
	if err != nil {
		closeLog()
		return engine.Options{}, nil, err
	}
	h := hub.FromEnv(filepath.Join(store.Dir(), "models"), os.Getenv)
	h.Embedded = map[string]fs.FS{"tiny": tiny.Files()}
	h.Warn = func(format string, args ...any) { t.printf(t.paint(yellow, "warning:")+" "+format+"\n", args...) }
	par := o.parallelism
	if par <= 0 {
		par = runtime.GOMAXPROCS(0)
	}
	return engine.Options{
		Store: store, Backend: dev.open, BackendName: dev.name,
		Resolve: func(ctx context.Context, source, dir string, progress func(done, total int64)) (string, [32]byte, error) {
			return h.Resolve(ctx, source, dir, progress)
		},
		Parallelism: par, Force: o.force, Targets: o.targets, KeepGoing: o.keepGoing, Log: log,
	}, func() { dev.close(); closeLog() }, nil
}

// openLog logs to pipe.log in the store, and to the terminal from level on.
func openLog(dir, level string, err io.Writer) (zerolog.Logger, func(), error) {
	f, e := os.OpenFile(filepath.Join(dir, "pipe.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if e != nil {
		return zerolog.Nop(), nil, fmt.Errorf("open the log: %w", e)
	}
	var w io.Writer = f
	if level != "" {
		l, e := zerolog.ParseLevel(level)
		if e != nil {
			f.Close()
			return zerolog.Nop(), nil, fmt.Errorf("--log-level %s: use debug, info, warn or error", level)
		}
		console := zerolog.LevelWriterAdapter{Writer: zerolog.ConsoleWriter{Out: err, NoColor: true}}
		w = zerolog.MultiLevelWriter(f, &zerolog.FilteredLevelWriter{Writer: console, Level: l})
	}
	return zerolog.New(w).With().Timestamp().Logger(), func() { f.Close() }, nil
}
