package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"pipe/model/hub"
	"pipe/model/pretrained"
	"pipe/model/tiny"
	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/fsys"
	"pipe/runtime/lang"
)

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// options are the flags of the commands that read a pipeline file.
type options struct {
	vars, varFiles list
	store          string
	device         string
	executor       string
	targets, force list
	parallelism    int
	maxTime        time.Duration
	keepGoing      bool
	json           bool
	progress       string
	logLevel       string
	detailed       bool
	n              int
	file           string
	format         string
	check          bool
	offline        bool
	runs           bool // ls
	forward, full  bool // trace
	grep, id       string
	strict         bool     // nightly
	verdict        string   // of a night, for the last line of --json
	stamp          *stamper // of pipe run; nil for none

	locked, upgrade bool            // see pins
	fetch           context.Context // for fetching modules; nil keeps off the network
	models          bool            // bundle: include models of the hub
	noArtifacts     bool            // bundle: leave out what stages made
	pins            *pins           // set by load
	hub             *hub.Resolver   // set by setup
}

// getenv is os.Getenv, but a plan never touches the network.
func (o *options) getenv(name string) string {
	if o.offline && name == "HF_HUB_OFFLINE" {
		return "1"
	}
	v, _ := o.lookupEnv(name)
	return v
}

// lookupEnv is os.LookupEnv; the stamp of the run notes the name.
func (o *options) lookupEnv(name string) (string, bool) {
	o.stamp.note(name)
	return os.LookupEnv(name)
}

// parse reads flags, which may stand before and after the arguments, and
// checks the number of arguments. Optional ones stand last and are empty when they
// are left out; the last of all, the pipeline, then is the current directory. On
// an error it has been printed.
func parse(t *app, name string, args []string, extra func(*flag.FlagSet, *options)) (*options, []string, error) {
	return parseArgs(t, name, strings.Fields(argsOf(name)), args, extra)
}

// parseArgs is parse for a command that takes the arguments want.
func parseArgs(t *app, name string, want, args []string, extra func(*flag.FlagSet, *options)) (*options, []string, error) {
	o := &options{}
	fs := flag.NewFlagSet("pipe "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	if !slices.Contains([]string{"fmt", "docs", "completion"}, name) && !storeOnly(name) {
		fs.Var(&o.vars, "var", "value of a variable, as `NAME=VALUE`; may be repeated")
		fs.Var(&o.varFiles, "var-file", "`FILE` of variable values; may be repeated")
	}
	if !slices.Contains([]string{"fmt", "docs", "completion"}, name) {
		fs.StringVar(&o.store, "store", "", "`DIR` of the artifact store (default: $PIPE_STORE, else .pipe beside the pipeline file)")
	}
	if !slices.Contains([]string{"fmt", "validate", "graph", "docs", "completion"}, name) && !storeOnly(name) { // those look at files only
		fs.StringVar(&o.device, "device", "auto", "`DEVICE`: auto, cpu or cuda")
	}
	if extra != nil {
		extra(fs, o)
	}
	var pos []string
	for rest := args; ; {
		if err := fs.Parse(rest); err != nil {
			if err == flag.ErrHelp {
				if t.help != nil {
					t.help(fs)
				} else {
					helpCommand(t, name)
				}
				return nil, nil, err
			}
			t.errorf("%s; pipe help %s lists the flags", flagProblem(name, fs, err), name)
			return nil, nil, errUsage
		}
		rest = fs.Args()
		if len(rest) == 0 {
			break
		}
		pos, rest = append(pos, rest[0]), rest[1:]
	}
	for n := len(want); len(pos) < n && strings.HasPrefix(want[len(pos)], "["); {
		if pos = append(pos, ""); len(pos) == n {
			pos[n-1] = "."
		}
	}
	many := len(want) == 1 && strings.HasSuffix(want[0], "...")
	if len(pos) != len(want) && (!many || len(pos) == 0) {
		t.errorf("pipe %s takes %s", name, strings.Join(want, " "))
		return nil, nil, errUsage
	}
	return o, pos, nil
}

// flagProblem words an error of package flag.
func flagProblem(name string, fs *flag.FlagSet, err error) string {
	unknown, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return strings.Replace(err.Error(), ": -", ": --", 1)
	}
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, "--"+f.Name) })
	return fmt.Sprintf("pipe %s has no flag --%s%s", name, unknown, suggest("--"+unknown, names))
}

func argsOf(name string) string {
	for _, c := range commands() {
		if c.name == name {
			return c.args
		}
	}
	return ""
}

// usageCode is the exit code after parse failed.
func usageCode(err error) int {
	if err == flag.ErrHelp {
		return exitOK
	}
	return exitUsage
}

// load reads the pipeline; on errors they have been printed.
func load(t *app, o *options, path string) (*lang.Program, bool) {
	vars, err := variables(o)
	if err != nil {
		t.errorf("%v", err)
		return nil, false
	}
	p, err := openPins(o, path)
	if err != nil {
		t.errorf("%v", err)
		return nil, false
	}
	o.pins = p
	prog, diags := lang.Load(path, t.kinds, lang.Options{Vars: vars, VarFiles: o.varFiles, Env: o.lookupEnv, Module: p.module})
	if len(diags) > 0 {
		t.diagnose(prog.Files, diags)
	}
	return prog, !diags.HasErrors()
}

// A flagError is a wrong value of a flag.
type flagError struct{ error }

// setupCode is the exit code after setup failed.
func setupCode(err error) int {
	if errors.As(err, new(flagError)) {
		return exitUsage
	}
	return exitFailed
}

// checkFlags reports values of flags that the program has no use for.
func checkFlags(o *options, prog *lang.Program) error {
	if o.parallelism < 0 {
		return flagError{fmt.Errorf("--parallelism %d: must be 0 (as many as processors) or more", o.parallelism)}
	}
	if o.maxTime < 0 {
		return flagError{fmt.Errorf("--max-time %v: must be a duration above 0, such as 2h", o.maxTime)}
	}
	switch o.executor {
	case "", "local":
	case "slurm":
		return flagError{errors.New("--executor slurm: this version of pipe runs every stage on this machine; use --executor local, or start pipe itself with sbatch")}
	default:
		return flagError{fmt.Errorf("--executor %s: use local", o.executor)}
	}
	var names []string
	for _, n := range prog.Nodes {
		names = append(names, n.Addr)
		if n.Swept {
			names = append(names, n.Block)
		}
	}
	for name, addrs := range map[string]list{"target": o.targets, "force": o.force} {
		for _, a := range addrs {
			if len(prog.Addrs(a)) == 0 {
				return flagError{fmt.Errorf("--%s %s: the pipeline has no such block%s", name, a, suggest(a, names))}
			}
		}
	}
	return nil
}

// storeDir is where the store of a pipeline lies.
func storeDir(o *options, prog *lang.Program) string { return storeDirOf(o, prog.Dir) }

// pipelineDir is the directory of a pipeline, as lang.Load finds it.
func pipelineDir(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}

func storeDirOf(o *options, dir string) string {
	switch env := os.Getenv("PIPE_STORE"); {
	case o.store != "":
		return o.store
	case env != "":
		return env
	}
	return filepath.Join(dir, ".pipe")
}

// setup opens the store and the device, and returns the engine's options.
func setup(t *app, o *options, prog *lang.Program) (engine.Options, func(), error) {
	if err := checkFlags(o, prog); err != nil {
		return engine.Options{}, nil, err
	}
	store, err := artifact.OpenStore(storeDir(o, prog))
	if err != nil {
		return engine.Options{}, nil, err
	}
	log, closeLog, err := openLog(store.Dir(), o.logLevel, t.terminal)
	if err != nil {
		return engine.Options{}, nil, err
	}
	dev, err := openDevice(o.device)
	if err != nil {
		closeLog()
		return engine.Options{}, nil, err
	}
	level := zerolog.InfoLevel
	if dev.less {
		level = zerolog.WarnLevel
	}
	log.WithLevel(level).Str("device", dev.name).Str("why", dev.why).Msg("device chosen")
	h := hub.FromEnv(filepath.Join(store.Dir(), "models"), o.getenv)
	h.MakeDir = func(dir string) error { return artifact.MakeDir(store.Dir(), dir) }
	h.Embedded = map[string]fs.FS{"tiny": tiny.Files()}
	h.Warn = func(format string, args ...any) {
		t.printf("%s %s\n", t.errInk.paint(yellow, "warning:"), clean(fmt.Sprintf(format, args...)))
	}
	o.hub = h
	if cache := filepath.Join(store.Dir(), hubDir); os.Getenv("HF_HUB_CACHE") == "" && isDir(cache) {
		h.Cache = cache // of a bundle
	}
	par := o.parallelism
	if par <= 0 {
		par = runtime.GOMAXPROCS(0)
	}
	return engine.Options{
		Store: store, Backend: dev.open, BackendName: dev.name, HasPrecision: dev.has,
		Resolve:      o.pins.resolver(h.Resolve),
		CheckWeights: pretrained.CheckWeights, CheckTemplate: pretrained.CheckTemplate, TemplateWith: pretrained.TemplateWith,
		Parallelism: par, Force: o.force, Targets: o.targets, KeepGoing: o.keepGoing, MaxTime: o.maxTime, Log: log,
	}, func() { dev.close(); closeLog() }, nil
}

// logName is the log's name in the store.
const logName = "pipe.log"

// openLog logs to pipe.log in the store, and to the terminal from level on.
func openLog(dir, level string, t *terminal) (zerolog.Logger, func(), error) {
	var w io.Writer = io.Discard
	closeLog := func() {}
	f, e := os.OpenFile(filepath.Join(dir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	switch {
	case e == nil:
		w, closeLog = f, func() { f.Close() }
		if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&0o022 != 0 { // those who share the store share its log
			write := st.Mode().Perm() & 0o022
			_ = f.Chmod(0o600 | write | write<<1)
		}
	case !fsys.ReadOnly(e) && !errors.Is(e, fs.ErrNotExist): // else the store may only be read
		return zerolog.Nop(), nil, fmt.Errorf("open the log: %w", e)
	}
	if level != "" {
		l, e := zerolog.ParseLevel(level)
		if e != nil {
			closeLog()
			return zerolog.Nop(), nil, flagError{fmt.Errorf("--log-level %s: use debug, info, warn or error", level)}
		}
		console := zerolog.LevelWriterAdapter{Writer: zerolog.ConsoleWriter{Out: aboveLines{t}, NoColor: !bool(t.errInk)}}
		w = zerolog.MultiLevelWriter(w, &zerolog.FilteredLevelWriter{Writer: console, Level: l})
	}
	return zerolog.New(w).With().Timestamp().Logger(), closeLog, nil
}
