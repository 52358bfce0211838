package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"pipe/gpu"
	"pipe/model/tiny"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/stages"
)

// TestMain makes this binary pipe itself, with small kinds more, for the
// scripts in testdata/script. Each script is named by the promise it tests.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pipe": func() {
			os.Exit(mainCode(append([]stage.Kind{stepKind, scoreKind, writeKind, leakKind, quizKind}, stages.All...)))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code": code, "waitfor": waitFor, "count": countLines, "hub": startHub, "tinymodel": copyTiny, "teacher": startTeacher, "damage": damage,
			"commit": commitAll, "expand": expandFile, "edit": editCheckout, "near": nearMetrics,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "cuda": // built with it
				return gpu.Built, nil
			case "emulator": // of CUDA: $EMULATOR, which gpu/build.sh emu makes
				_, err := os.Stat(emulator())
				return gpu.Built && err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("EMULATOR", emulator())
			e.Setenv("HOME", e.WorkDir) // no model cache or token of this machine
			e.Setenv("HF_HUB_OFFLINE", "1")
			return nil
		},
	})
}

// emulator is the path of the emulated driver of CUDA.
func emulator() string {
	path, _ := filepath.Abs("../../out/cuda/libcuda-emu.so")
	return path
}

// code runs a command that must exit with a code: code 3 pipe run p.hcl.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND [ARGUMENT...]")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code is %d, want %s\n[stdout]\n%s\n[stderr]\n%s", got, args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// waitFor waits until a file is there.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor FILE")
	}
	for range 3000 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s did not come", args[0])
}

// startHub serves a hub that has no models, and writes what it is asked for to
// a file: hub FILE.
func startHub(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hub FILE")
	}
	path := ts.MkAbs(args[0])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(path, []byte(r.URL.Path+"\n"), 0o666); err != nil {
			panic(err)
		}
		http.NotFound(w, r)
	}))
	ts.Defer(srv.Close)
	ts.Setenv("HF_ENDPOINT", srv.URL)
	ts.Setenv("HF_HUB_OFFLINE", "")
}

// copyTiny writes the embedded model to a directory: tinymodel DIR.
func copyTiny(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tinymodel DIR")
	}
	ts.Check(os.CopyFS(ts.MkAbs(args[0]), tiny.Files()))
}

// startTeacher serves a teacher at $TEACHER: teacher HOW FILE. Each request
// adds a line to the file. HOW is good, held (good, when FILE.go is there), terse (good, with another answer), counted
// (good, and each answer took 100 input and 10 output tokens), or what is wrong
// with it.
func startTeacher(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: teacher good|held|terse|counted|500|garbage|nothing|silent|hang FILE")
	}
	path, end := ts.MkAbs(args[1]), make(chan struct{})
	answer := func(w http.ResponseWriter, text string) {
		usage := ""
		if args[0] == "counted" {
			usage = `,"usage":{"prompt_tokens":100,"completion_tokens":10}`
		}
		fmt.Fprintf(w, `{"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}]%s}`, text, usage)
	}
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err == nil {
			fmt.Fprintln(f, r.URL.Path)
			f.Close()
		}
		mu.Unlock()
		for args[0] == "held" && r.Context().Err() == nil {
			if _, err := os.Stat(path + ".go"); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		switch args[0] {
		case "500":
			http.Error(w, `{"error":{"message":"the GPU is on fire"}}`, http.StatusInternalServerError)
		case "garbage":
			fmt.Fprint(w, "<html>it works!</html>")
		case "nothing":
			answer(w, "")
		case "silent":
			panic(http.ErrAbortHandler) // the connection ends
		case "hang":
			select {
			case <-end:
			case <-r.Context().Done():
			}
		default:
			switch {
			case bytes.Contains(body, []byte("Read this text.")):
				answer(w, "Question: What must copies keep?")
			case bytes.Contains(body, []byte("Think step by step")):
				answer(w, "The text says that copies must keep the notice.")
			case args[0] == "terse":
				answer(w, "Answer: The notice.")
			default:
				answer(w, "Answer: The notice of the authors.")
			}
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.Defer(func() { close(end); srv.CloseClientConnections(); srv.Close() })
	ts.Setenv("TEACHER", srv.URL+"/v1")
}

// countLines checks how many lines a file has.
func countLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: count FILE N")
	}
	if n := bytes.Count([]byte(ts.ReadFile(args[0])), []byte("\n")); strconv.Itoa(n) != args[1] {
		ts.Fatalf("%s has %d lines, want %s", args[0], n, args[1])
	}
}

// nearMetrics compares what two runs measured, as pipe metrics --json prints it: the same
// metrics, whose values and base values differ by at most a share of themselves:
// near SHARE FILE FILE.
func nearMetrics(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: near SHARE FILE FILE")
	}
	share, err := strconv.ParseFloat(args[0], 64)
	ts.Check(err)
	type metric struct {
		Stage, Metric string
		N             int
		Value, Base   *float64
	}
	var all [2][]metric
	for i, name := range args[1:] {
		d := json.NewDecoder(strings.NewReader(ts.ReadFile(name)))
		for d.More() {
			var m metric
			ts.Check(d.Decode(&m))
			all[i] = append(all[i], m)
		}
	}
	near := func(a, b *float64) bool {
		if a == nil || b == nil {
			return a == b
		}
		return math.Abs(*a-*b) <= share*math.Max(math.Abs(*a), math.Abs(*b)) // NaN is near nothing
	}
	if len(all[0]) == 0 || len(all[0]) != len(all[1]) {
		ts.Fatalf("%d and %d metrics", len(all[0]), len(all[1]))
	}
	for i, a := range all[0] {
		b := all[1][i]
		if a.Stage != b.Stage || a.Metric != b.Metric || a.N != b.N || !near(a.Value, b.Value) || !near(a.Base, b.Base) {
			ja, _ := json.Marshal(a)
			jb, _ := json.Marshal(b)
			ts.Fatalf("metrics differ:\n%s\n%s", ja, jb)
		}
	}
}

const labDoc = "# lab\n\nA kind of the tests.\n"

// stepKind joins the texts of its inputs and its own, in one row.
var stepKind = stage.Kind{
	Name: "step", Doc: labDoc, Version: 1, New: func() stage.Stage { return &step{} },
	Outputs: []stage.Output{{Name: "rows", Type: artifact.Dataset, Doc: "One row"}},
}

type step struct {
	Text   string          `hcl:"text,optional" doc:"What the row holds"`
	Keep   int             `hcl:"keep,optional" doc:"Keep this many characters; 0 keeps all"`
	From   []stage.Dataset `hcl:"from,optional" doc:"Rows to join"`
	Steps  int             `hcl:"steps,optional" json:"-" doc:"Checkpoints to go through"`
	Pause  int             `hcl:"pause,optional" json:"-" doc:"Milliseconds between checkpoints"`
	Until  string          `hcl:"until,optional" json:"-" doc:"File to wait for before the last checkpoint"`
	Signal string          `hcl:"signal,optional" json:"-" doc:"File to make when waiting"`
	Ran    string          `hcl:"ran,optional" json:"-" doc:"File to add a line to"`
	Fail   string          `hcl:"fail,optional" json:"-" doc:"Fail, saying this"`
	Panic  string          `hcl:"panic,optional" json:"-" doc:"Panic, saying this"`
	Bytes  int             `hcl:"bytes,optional" doc:"Pad the row to this length"`
}

func (s *step) Check() error {
	if s.Keep < 0 {
		return stage.Fieldf("keep", "is %d; must be 0 or more", s.Keep)
	}
	return nil
}

func (s *step) Run(ctx context.Context, env *stage.Env) error {
	if s.Ran != "" {
		f, err := os.OpenFile(env.Dir+"/"+s.Ran, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintln(f, "ran")
	}
	if s.Panic != "" {
		panic(s.Panic)
	}
	if s.Fail != "" {
		return errors.New(s.Fail)
	}
	if err := s.walk(ctx, env); err != nil {
		return err
	}
	text := s.Text
	for _, from := range s.From {
		a, err := env.Store.Open(from.Ref)
		if err != nil {
			return err
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			if err != nil {
				return err
			}
			text = r.Text + text
		}
	}
	if s.Keep > 0 {
		text = text[:min(s.Keep, len(text))]
	}
	w, err := env.Create("rows")
	if err != nil {
		return err
	}
	pad := bytes.Repeat([]byte("x"), max(0, s.Bytes-len(text)))
	return artifact.Append(w, artifact.Row{ID: "row", Text: text + string(pad), Gold: -1})
}

// walk goes through the checkpoints, and goes on where another run stopped.
func (s *step) walk(ctx context.Context, env *stage.Env) error {
	path := env.Work + "/checkpoint"
	b, _ := os.ReadFile(path)
	at, _ := strconv.Atoi(string(b))
	if at > 0 {
		env.Note("went on from step %d", at)
	}
	for i := at; i < s.Steps; i++ {
		env.Progress(int64(i), int64(s.Steps), "steps")
		time.Sleep(time.Duration(s.Pause) * time.Millisecond)
		if i == s.Steps-1 && s.Until != "" {
			if err := s.wait(ctx, env.Dir); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(i+1)), 0o666); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) wait(ctx context.Context, dir string) error {
	for {
		if _, err := os.Stat(dir + "/" + s.Until); err == nil {
			return nil
		}
		if s.Signal != "" {
			if err := os.WriteFile(dir+"/"+s.Signal, nil, 0o666); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// scoreKind measures its attributes.
var scoreKind = stage.Kind{
	Name: "score", Doc: labDoc, Version: 1, New: func() stage.Stage { return &score{} },
	Outputs: []stage.Output{{Name: "metrics", Type: artifact.Metrics, Doc: "qa.acc"}},
}

type score struct {
	From  *stage.Dataset `hcl:"from,optional" doc:"Not used"`
	Base  float64        `hcl:"base" doc:"qa.acc of the base"`
	Tuned float64        `hcl:"tuned" doc:"qa.acc"`
	Gates []stage.Gate   `hcl:"gate,block" json:"-" doc:"Gates"`
}

func (*score) Check() error { return nil }

func (s *score) Run(_ context.Context, env *stage.Env) error {
	w, err := env.Create("metrics")
	if err != nil {
		return err
	}
	env.Metric("acc", 1, s.Tuned)
	env.Note("a note with an escape \x1b[31m and a\nnew line")
	metric := func(v float64) map[string]artifact.Metric {
		return map[string]artifact.Metric{"qa.acc": {N: 40, Value: v, Stderr: 0.05, Better: 1}}
	}
	return w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{
		Metrics: metric(s.Tuned), Baseline: metric(s.Base), Blind: metric(0.25),
		Grids: map[string]artifact.Grid{"needle": {
			RowName: "length (tokens)", ColName: "depth", Rows: []float64{128, 256}, Cols: []float64{0, 0.5, 1}, N: 8,
			Values: [][]float64{{1, 0.5, 0.25}, {0.75, 0}}, Baseline: [][]float64{{0, 0.5, 0.25}, {0.75, 0, 0}},
		}},
	})
}

// writeKind makes a tree of files, as exports do.
var writeKind = stage.Kind{
	Name: "write", Doc: labDoc, Version: 1, New: func() stage.Stage { return &write{} },
	Outputs: []stage.Output{{Name: "files", Type: artifact.File, Doc: "Two files"}},
}

type write struct {
	Content string `hcl:"content" doc:"Of the files"`
}

func (*write) Check() error { return nil }

func (s *write) Run(_ context.Context, env *stage.Env) error {
	w, err := env.Create("files")
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.Dir()+"/a.txt", []byte("a "+s.Content+"\n"), 0o666); err != nil {
		return err
	}
	return os.WriteFile(w.Dir()+"/b.txt", []byte("b "+s.Content+"\n"), 0o666)
}
