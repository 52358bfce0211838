package pipelines_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A sharer runs pipe and git in a directory of its own, with a home of its own.
type sharer struct {
	t         *testing.T
	bin, home string
	dir       string
}

func (s *sharer) command(name string, args ...string) (string, int) {
	s.t.Helper()
	c := exec.Command(name, args...)
	c.Dir = s.dir
	c.Env = append(os.Environ(), "HOME="+s.home, "GIT_CONFIG_NOSYSTEM=1", "PIPE_STORE=", "HF_HUB_OFFLINE=1")
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// pipe runs pipe, which must exit with the code and say all of wants.
func (s *sharer) pipe(code int, args []string, wants ...string) string {
	s.t.Helper()
	out, got := s.command(s.bin, args...)
	if got != code {
		s.t.Fatalf("pipe %v: exit code %d, want %d\n%s", args, got, code, out)
	}
	for _, want := range wants {
		if !regexp.MustCompile(`(?m)` + want).MatchString(out) {
			s.t.Errorf("pipe %v does not say %q:\n%s", args, want, out)
		}
	}
	return out
}

// repository makes a git repository of a module and returns its address.
func (s *sharer) repository(name string) string {
	s.t.Helper()
	repo := filepath.Join(s.t.TempDir(), name)
	if err := os.CopyFS(repo, os.DirFS(filepath.Join("sharing/modules", name))); err != nil {
		s.t.Fatal(err)
	}
	s.commit(repo, "init", "-q", "-b", "main")
	s.commit(repo, "add", "-A")
	s.commit(repo, "commit", "-q", "-m", name)
	s.commit(repo, "tag", "v1")
	return repo
}

func (s *sharer) commit(repo string, args ...string) {
	s.t.Helper()
	args = append([]string{"-C", repo, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)
	if out, code := s.command("git", args...); code != 0 {
		s.t.Fatalf("git %v: %s", args, out)
	}
}

// TestSharing runs sharing.hcl with its three modules from git: twelve points,
// the best of them, the gate; locked, then replayed from a bundle where neither
// the repositories nor the data are.
func TestSharing(t *testing.T) {
	if testing.Short() {
		t.Skip("trains twelve models")
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here")
	}
	bin := filepath.Join(t.TempDir(), "pipe")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/pipe").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	s := &sharer{t: t, bin: bin, home: t.TempDir(), dir: filepath.Join(t.TempDir(), "recipes")}
	for _, f := range []string{"lookup.jsonl", "choice.jsonl", "prose.jsonl"} {
		copyTo(t, filepath.Join("quickstart", f), filepath.Join(s.dir, "quickstart", f))
	}
	recipe, err := os.ReadFile("sharing.hcl")
	if err != nil {
		t.Fatal(err)
	}
	text := string(recipe)
	repos := map[string]string{}
	for _, name := range []string{"prepare", "sweep", "judge"} {
		repos[name] = s.repository(name)
		local := `"./sharing/modules/` + name + `"`
		if !strings.Contains(text, local) {
			t.Fatalf("sharing.hcl does not use %s", local)
		}
		text = strings.Replace(text, local, `"git::file://`+filepath.ToSlash(repos[name])+`?ref=v1"`, 1)
	}
	shared := filepath.Join(s.dir, "sharing.hcl")
	if err := os.WriteFile(shared, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}

	s.pipe(2, []string{"plan", "sharing.hcl"}, `pipe lock or pipe\s+run fetches`)
	s.pipe(0, []string{"lock", "sharing.hcl"}, `^\+ module git::file:.*prepare\?ref=v1: commit`, `pins 3 modules, 1 model, 3 datasets`)
	out := s.pipe(0, []string{"run", "--locked", "sharing.hcl"}, `gate no_forgetting of module.judge.eval.final passed`, `module.sweep.select.best`, `^33 stages ran`)
	if points := regexp.MustCompile(`(?m)^module\.sweep\.eval\.point\["[^"]+"\]$`).FindAllString(out, -1); len(points) != 12 {
		t.Errorf("the sweep has the points %q", points)
	}
	s.pipe(0, []string{"run", "--locked", "sharing.hcl"}, `^Nothing to do: 33 stages`)

	// Two nights: the first becomes the baseline, the second trains for less and
	// is found to be worse, point by point.
	s.pipe(0, []string{"nightly", "--locked", "sharing.hcl"}, `^sharing: the first night: this run is the baseline now`)
	s.pipe(3, []string{"nightly", "--locked", "--var", "steps=3", "-o", "night.html", "sharing.hcl"},
		`^module\.sweep\.eval\.point\["lr=0\.002,rank=8"\]$`, `^  test\.nll +24 +3\.\d+ +3\.\d+ +\+0\.\d+ .* worse$`, `^sharing: regression: 12 worse`)
	page, err := os.ReadFile(filepath.Join(s.dir, "night.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"12 metrics got worse", "module.judge.eval.final", "lr=0.002,rank=8", "no_forgetting"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the report does not say %q", want)
		}
	}

	// The modules from directories are the same stages.
	store := filepath.Join(s.dir, ".pipe")
	here := *s
	if here.dir, err = os.Getwd(); err != nil {
		t.Fatal(err)
	}
	here.pipe(0, []string{"run", "--store", store, "sharing.hcl"}, `^Nothing to do: 33 stages`)

	// A tag that moved changes nothing until it is asked for.
	judge := filepath.Join(repos["judge"], "main.hcl")
	src, err := os.ReadFile(judge)
	if err != nil {
		t.Fatal(err)
	}
	strict := strings.Replace(string(src), "+ var.forgotten", "- 10", 1)
	if err := os.WriteFile(judge, []byte(strict), 0o644); err != nil {
		t.Fatal(err)
	}
	s.commit(repos["judge"], "commit", "-q", "-a", "-m", "strict")
	s.commit(repos["judge"], "tag", "-f", "v1")
	s.pipe(0, []string{"run", "--locked", "sharing.hcl"}, `^Nothing to do`)
	s.pipe(0, []string{"bundle", "-o", "shared.tar", "sharing.hcl"}, `with what 33 stages made`)
	s.pipe(0, []string{"lock", "--upgrade", "sharing.hcl"}, `^~ module git::file:.*judge`)
	s.pipe(3, []string{"run", "--locked", "sharing.hcl"}, `gate no_forgetting of module.judge.eval.final failed: prose costs [0-9.]+ nats a token`)

	// Elsewhere, from the bundle alone.
	far := &sharer{t: t, bin: bin, home: t.TempDir(), dir: t.TempDir()}
	copyTo(t, filepath.Join(s.dir, "shared.tar"), filepath.Join(far.dir, "shared.tar"))
	for _, dir := range append([]string{s.dir}, repos["prepare"], repos["sweep"], repos["judge"]) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	far.pipe(0, []string{"run", "--locked", "shared.tar"}, `^Nothing to do: 33 stages`)
	far.pipe(0, []string{"cat", "module.sweep.select.best.metrics", "shared/tree/sharing.hcl"}, `test.nll@lr=0.002,rank=8`)
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
