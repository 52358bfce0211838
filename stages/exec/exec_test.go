//go:build unix

package exec

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
)

func sh(script string) *spec { return &spec{Command: []string{"sh", "-c", script}} }

func write(t testing.TB, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func text(t testing.TB, a *artifact.Artifact, name string) string {
	t.Helper()
	path, err := a.Path(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(a *artifact.Artifact) string {
	var out []string
	for _, f := range a.Files() {
		out = append(out, f.Name)
	}
	return strings.Join(out, " ")
}

// Rows go through a program as they are, in another order; what it writes
// beside them is kept as files.
func TestRows(t *testing.T) {
	b := stagetest.New(t)
	rows := []artifact.Row{
		{ID: "b", Text: "two <b>", Gold: -1, Source: "x:2", Meta: `{"n":1.50}`},
		{ID: "a", Messages: []artifact.Message{{Role: "user", Content: "q"}, {Role: "assistant", Content: "a"}}, Gold: -1, Source: "x:1"},
	}
	s := sh(`sort "$IN_rows" > "$OUT/rows"; mkdir -p "$OUT/log/deep"; wc -l < "$IN_rows" > "$OUT/log/deep/n"; echo left > "$OUT/left"`)
	s.Inputs = stage.Bindings{{Name: "rows", Ref: stagetest.Dataset(b, rows...).Ref}}
	s.Datasets, s.Made = []string{"rows"}, []string{"log"}
	r := b.Run(Kind, s)
	got := stagetest.Rows[artifact.Row](r, "rows")
	if len(got) != 2 || got[0].ID != "a" || got[1].Meta != rows[0].Meta || got[1].Text != rows[0].Text || got[1].Source != "x:2" {
		t.Errorf("got %+v", got)
	}
	if log := r.Outputs["log"]; names(log) != "deep/n" || strings.TrimSpace(text(t, log, "deep/n")) != "2" {
		t.Errorf("log is %s", names(log))
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "not kept") || !strings.Contains(r.Notes[0], "left") {
		t.Errorf("notes %q", r.Notes)
	}
}

// A program sees what the block declares, and nothing else of this machine.
func TestWhatAProgramSees(t *testing.T) {
	b := stagetest.New(t)
	t.Setenv("SECRET_KEY", "no")
	t.Setenv("WANTED", "yes")
	write(t, b.Dir, "scripts/run.sh", "#!/bin/sh\nenv | sort > $OUT/env\nfind . | sort > $OUT/files\nfind $WORK $TMPDIR $OUT -type d | wc -l > $OUT/dirs\n", 0o755)
	write(t, b.Dir, "scripts/other.sh", "x", 0o644)
	write(t, b.Dir, "undeclared.txt", "x", 0o644)
	s := &spec{Command: []string{"./scripts/run.sh"}, Files: []string{"scripts/*.sh"}, Env: []string{"WANTED"}, Made: []string{"env", "files", "dirs"}}
	r := b.Run(Kind, s)
	if got := text(t, r.Outputs["files"], "files"); got != ".\n./scripts\n./scripts/other.sh\n./scripts/run.sh\n" {
		t.Errorf("files are %q", got)
	}
	env := text(t, r.Outputs["env"], "env")
	for _, line := range strings.Split(strings.TrimSpace(env), "\n") {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "PATH", "HOME", "LANG", "OUT", "WORK", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_":
		case "WANTED":
			if value != "yes" {
				t.Errorf("WANTED is %q", value)
			}
		case "SEED":
			if value != "1" {
				t.Errorf("SEED is %q", value)
			}
		default:
			t.Errorf("the program sees %s", line)
		}
	}
	if !strings.Contains(env, "SEED=") || !strings.Contains(env, "WANTED=") {
		t.Errorf("the environment is %q", env)
	}
}

// Files, metrics and models are paths, too, and a file that the program was
// given can go on being one.
func TestOtherInputs(t *testing.T) {
	b := stagetest.New(t)
	first := sh("echo one > $OUT/one; mkdir $OUT/many; echo a > $OUT/many/a; echo b > $OUT/many/b")
	first.Made = []string{"one", "many"}
	r := b.Run(Kind, first)
	model := t.TempDir()
	s := sh(`cat $IN_one $IN_many/b > $OUT/out; grep -q '"qa.acc"' $IN_m && echo $IN_base >> $OUT/out; echo "[$IN_base_ADAPTER]" >> $OUT/out`)
	s.Inputs = stage.Bindings{
		{Name: "base", Ref: b.Model(model).Ref}, {Name: "many", Ref: r.Ref("many")},
		{Name: "m", Ref: b.Metrics(artifact.MetricsFile{Metrics: map[string]artifact.Metric{"qa.acc": {N: 1}}}).Ref}, {Name: "one", Ref: r.Ref("one")},
	}
	if got := text(t, b.Run(Kind, s).Outputs["out"], "out"); got != "one\nb\n"+model+"\n[]\n" {
		t.Errorf("got %q", got)
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		s    *spec
		want string
	}{
		"status":       {sh("echo first; echo why >&2; exit 3"), "command: sh: exit status 3; it said last:\nfirst\nwhy"},
		"silent":       {sh("exit 4"), "exit status 4, and it said nothing"},
		"missing":      {sh("true"), "outputs: the program ended well and did not write $OUT/out"},
		"missing rows": {&spec{Command: []string{"true"}, Datasets: []string{"a"}}, "datasets[0]: the program ended well and did not write $OUT/a"},
		"no program":   {&spec{Command: []string{"no-such-program"}}, `there is no program "no-such-program" in PATH`},
		"no script":    {&spec{Command: []string{"./x.sh"}}, "x.sh: no such file"},
		"no file":      {&spec{Command: []string{"true"}, Files: []string{"x*"}}, `files[0]: "x*" matches no file`},
		"a directory":  {&spec{Command: []string{"true"}, Files: []string{"dir"}}, `files[0]: "dir" is a directory`},
		"a link":       {sh("ln -s /etc $OUT/out"), "neither a file nor a directory"},
		"a link in it": {sh("mkdir $OUT/out; ln -s /etc $OUT/out/x"), "$OUT/out/x is a link"},
		"a pipe":       {sh("mkfifo $OUT/out"), "neither a file"},
		"bad rows":     {&spec{Command: []string{"sh", "-c", "echo '{\"text\":\"a\"}' > $OUT/a; echo x >> $OUT/a"}, Datasets: []string{"a"}}, "a:2: broken JSON"},
		"equal ids":    {&spec{Command: []string{"sh", "-c", `for i in 1 2; do echo '{"id":"i","text":"a"}'; done > $OUT/a`}, Datasets: []string{"a"}}, `the id "i" is given twice in $OUT/a, to rows from a:1 and a:2`},
		"unset":        {&spec{Command: []string{"true"}, Env: []string{"PIPE_NOT_SET"}}, "env[0]: the environment variable PIPE_NOT_SET is not set"},
		"timeout":      {&spec{Command: []string{"sh", "-c", "echo tick; sleep 60"}, Timeout: "50ms"}, "timeout: sh did not end within 50ms; it said last:\ntick"},
	} {
		t.Run(name, func(t *testing.T) {
			b := stagetest.New(t)
			write(t, b.Dir, "dir/x", "x", 0o644)
			_, err := b.Try(context.Background(), Kind, c.s)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The error holds the end of a long talk, and the middle of no line is lost to
// memory.
func TestLongTalk(t *testing.T) {
	b := stagetest.New(t)
	b.TB = quiet{t}
	_, err := b.Try(context.Background(), Kind, sh(`i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo line $i; done; head -c 100000 /dev/zero | tr '\0' x; exit 1`))
	if err == nil || strings.Contains(err.Error(), "line 481\n") || !strings.Contains(err.Error(), "line 482\n") || len(err.Error()) > 3*maxLine {
		t.Errorf("got %.3000v", err)
	}
}

// quiet keeps what a program says out of the test's log.
type quiet struct{ testing.TB }

func (quiet) Log(...any)          {}
func (quiet) Logf(string, ...any) {}

// A run that is stopped leaves no process, not even those that its program
// started and that do not listen.
func TestCancelEndsTheGroup(t *testing.T) {
	b := stagetest.New(t)
	dir := t.TempDir()
	s := sh(`sh -c 'trap "" TERM; echo $$ > ` + dir + `/child; while :; do sleep 0.05; done' > /dev/null 2>&1 & echo $! > ` + dir + `/pid; mv ` + dir + `/pid ` + dir + `/ready; wait`)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "child")); err == nil {
				if b, _ := os.ReadFile(filepath.Join(dir, "child")); len(b) > 0 {
					break
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if _, err := b.Try(ctx, Kind, s); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	buried(t, filepath.Join(dir, "child"))
}

// A program that does not listen is given five seconds, unless the run is to stop
// at once: then nothing of its group is left, and nobody waits.
func TestStopAtOnceKillsTheGroup(t *testing.T) {
	b := stagetest.New(t)
	dir := t.TempDir()
	s := sh(`trap "" INT TERM; (echo $(exec sh -c 'echo $PPID') > ` + dir + `/part; mv ` + dir + `/part ` + dir + `/child; sleep 31) & sleep 31`)
	halt := stage.NewHalt()
	ctx, cancel := context.WithCancel(stage.WithHalt(context.Background(), halt))
	var began time.Time
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "child")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
		time.Sleep(300 * time.Millisecond) // it was asked, and does not listen
		began = time.Now()
		halt.AtOnce()
	}()
	if _, err := b.Try(ctx, Kind, s); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	buried(t, filepath.Join(dir, "child"))
}

// buried waits for the end of the process whose number a file holds.
func buried(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for range 400 { // init has to bury it
		if err := syscall.Kill(pid, 0); err != nil || zombie(pid) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

// zombie reports whether a process is dead and not yet buried.
func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(b), ") Z ")
}

// What an interrupted attempt wrote is not taken for what the next one wrote,
// but for what it put into $WORK.
func TestAttemptsAreApart(t *testing.T) {
	b := stagetest.New(t)
	if _, err := b.Try(context.Background(), Kind, sh("echo old > $OUT/out; echo kept > $WORK/w; exit 1")); err == nil {
		t.Fatal("no error")
	}
	if _, err := b.Try(context.Background(), Kind, sh("true")); err == nil || !strings.Contains(err.Error(), "did not write") {
		t.Errorf("got %v", err)
	}
	if got := text(t, b.Run(Kind, sh("cat $WORK/w > $OUT/out")).Outputs["out"], "out"); got != "kept\n" {
		t.Errorf("got %q", got)
	}
}

func TestCheck(t *testing.T) {
	for want, s := range map[string]*spec{
		"command: names no program":       {},
		"command[1]: holds a zero":        {Command: []string{"a", "\x00"}},
		`inputs["a-b"]: has a name`:       {Command: []string{"a"}, Inputs: stage.Bindings{{Name: "a-b"}}},
		`outputs[0]: is "../x"; a name`:   {Command: []string{"a"}, Made: []string{"../x"}},
		`is "a", which is written twice`:  {Command: []string{"a"}, Made: []string{"a"}, Datasets: []string{"a"}},
		`files[0]: is "../x"; it must be`: {Command: []string{"a"}, Files: []string{"../x"}},
		`files[0]: is "/x"; it must be`:   {Command: []string{"a"}, Files: []string{"/x"}},
		`files[0]: is "[x"; it must be`:   {Command: []string{"a"}, Files: []string{"[x"}},
		`env[0]: is "A=b"; name a`:        {Command: []string{"a"}, Env: []string{"A=b"}},
		`env[0]: is "OUT", which`:         {Command: []string{"a"}, Env: []string{"OUT"}},
		`env[0]: is "IN_x", which`:        {Command: []string{"a"}, Env: []string{"IN_x"}},
		`timeout: is "1"; must be`:        {Command: []string{"a"}, Timeout: "1"},
		`timeout: is "-1s"; must be`:      {Command: []string{"a"}, Timeout: "-1s"},
	} {
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	good := &spec{Command: []string{"a"}, Inputs: stage.Bindings{{Name: "IN"}}, Made: []string{"a-b"}, Datasets: []string{"c"}, Files: []string{"a/*.py"}, Env: []string{"TZ"}, Timeout: "1h"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	if outs := good.Outputs(); len(outs) != 2 || outs[0].Name != "a-b" || outs[1].Type != artifact.Dataset {
		t.Errorf("outputs %v", outs)
	}
	if outs := (&spec{}).Outputs(); len(outs) != 1 || outs[0].Name != "out" {
		t.Errorf("outputs %v", outs)
	}
}

// Rows of a program are read as those of files: what no row holds is said.
func TestUnusedKeysOfMessagesAreSaid(t *testing.T) {
	b := stagetest.New(t)
	s := sh(`echo '{"messages":[{"role":"user","content":"q","name":"Ann"},{"role":"assistant","content":"a"}]}' > "$OUT/rows"`)
	s.Datasets, s.Made = []string{"rows"}, nil
	if r := b.Run(Kind, s); len(r.Notes) != 1 || r.Notes[0] != `$OUT/rows: keys of messages that are not used: "name" (in 1 message)` {
		t.Errorf("notes %q", r.Notes)
	}
	s = sh(`echo '{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":0}]}' > "$OUT/rows"`)
	s.Datasets, s.Made = []string{"rows"}, nil
	if _, err := b.Try(context.Background(), Kind, s); err == nil || !strings.Contains(err.Error(), "rows:1: message 2 of messages has weight 0") {
		t.Errorf("got %v", err)
	}
}
