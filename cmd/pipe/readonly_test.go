//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user who owns nothing.
const nobody = 65534

// openDir makes a directory that every user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pipe-shared-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(p string, _ fs.DirEntry, _ error) error { os.Chmod(p, 0o755); return nil })
		os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pipeAs runs pipe in dir as another user, which only root can, or else as this
// one.
func pipeAs(t *testing.T, user int, dir string, args ...string) (out string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, args...)
	if _, err := os.Stat("/proc/self/exe"); err == nil { // others may not see the directory of self
		c.Path = "/proc/self/exe"
	}
	c.Args[0] = "pipe"
	c.Dir = dir
	c.Env = append(os.Environ(), "HOME="+dir, "HF_HUB_OFFLINE=1", "PIPE_STORE=")
	if os.Getuid() == 0 && user != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
	}
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err = c.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Skipf("cannot run as another user: %v", err)
	}
	return b.String(), c.ProcessState.ExitCode()
}

const sharedPipeline = `
step "a" { text = "one" }
step "b" {
  from = [step.a.rows]
  text = "two"
}`

// sharedParts is a pipeline of a model and a module, which lie in the store too.
const sharedParts = `
model "tiny" { source = "embedded://tiny" }
module "m" { source = "git::file://%s/repo//part" }
step "b" {
  from = [module.m.rows]
  text = "two"
}
export "tiny" {
  model   = model.tiny
  formats = ["gguf:f16"]
  name    = "tiny"
}`

func writeFileIn(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A store that may only be read is read: whatever is up to date can be looked
// at, and run. What would have to be written says why it cannot.
func TestAStoreThatMayOnlyBeRead(t *testing.T) {
	dir := openDir(t)
	writeFileIn(t, dir, "p.hcl", sharedPipeline)
	expect := func(want int, args []string, says ...string) {
		t.Helper()
		out, code := pipeAs(t, nobody, dir, args...)
		if code != want {
			t.Errorf("pipe %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, out)
		}
		for _, s := range says {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), s) {
				t.Errorf("pipe %s does not say %q:\n%s", strings.Join(args, " "), s, out)
			}
		}
	}
	if os.Getuid() != 0 {
		os.Chmod(dir, 0o555)
	}
	expect(0, []string{"plan", "p.hcl"}, "2 to run") // there is no store, and none can be made
	expect(1, []string{"run", "p.hcl"}, "step.a", "the store "+filepath.Join(dir, ".pipe")+" cannot be written to", "--store")
	os.Chmod(dir, 0o755)

	if out, code := pipeAs(t, 0, dir, "run", "p.hcl"); code != 0 {
		t.Fatal(out)
	}
	if os.Getuid() != 0 {
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
			if d.IsDir() {
				os.Chmod(p, 0o555)
			} else {
				os.Chmod(p, 0o444)
			}
			return nil
		})
	}
	expect(0, []string{"plan", "p.hcl"}, "2 up to date")
	expect(0, []string{"ls", "p.hcl"}, "step.b.rows", "1 row")
	expect(0, []string{"show", "step.b", "p.hcl"}, "dataset of 1 row")
	expect(0, []string{"cat", "step.b.rows", "p.hcl"}, "onetwo")
	expect(0, []string{"explain", "step.b", "p.hcl"}, "up to date")
	expect(0, []string{"run", "p.hcl"}, "Nothing to do: 2 stages up to date", "this run is not noted in the store: it may only be read")
	expect(0, []string{"verify", "p.hcl"}, "all whole")
	expect(0, []string{"verify", "--rerun", "step.b", "p.hcl"}, "made the same again")
	expect(0, []string{"gc", "--dry-run", "p.hcl"}, "0 B would be freed")
	expect(1, []string{"run", "--force", "step.b", "p.hcl"}, "cannot be written to")
}

// A store in a directory that a group may write to is shared: what one user
// made the other uses, breaks the leases of, and collects, whatever the umask.
func TestAStoreOfSeveralUsers(t *testing.T) {
	dir := openDir(t)
	const a, b, group = 4001, 4002, 4000
	if os.Getuid() != 0 {
		t.Skip("only root can run as several users")
	}
	defer syscall.Umask(syscall.Umask(0o077)) // the least helpful
	store := filepath.Join(dir, "store")
	if err := os.Mkdir(store, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(store, -1, group); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(store, 0o2770|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	as := func(user int, want string, args ...string) {
		t.Helper()
		self := "/proc/self/exe"
		c := exec.Command(self, append(args, "--store", store)...)
		c.Args[0], c.Dir = "pipe", dir
		c.Env = append(os.Environ(), "HOME="+dir, "HF_HUB_OFFLINE=1", "PIPE_STORE=")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user), Groups: []uint32{group}}}
		out, err := c.CombinedOutput()
		if _, ok := err.(*exec.ExitError); err != nil && !ok {
			t.Skipf("cannot run as another user: %v", err)
		}
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("user %d, pipe %s: %v, want %q\n%s", user, strings.Join(args, " "), err, want, out)
		}
	}
	os.Chmod(dir, 0o755)
	writeFileIn(t, dir, "p.hcl", sharedPipeline)
	os.Chmod(filepath.Join(dir, "p.hcl"), 0o644)
	as(a, "2 stages ran", "run", "p.hcl")
	as(b, "Nothing to do", "run", "p.hcl")
	as(b, "1 stage ran", "run", "--force", "step.b", "p.hcl")
	as(b, "onetwo", "cat", "step.b.rows", "p.hcl")
	writeFileIn(t, dir, "p.hcl", strings.Replace(sharedPipeline, "two", "three", 1))
	as(b, "1 stage ran, 1 up to date", "run", "p.hcl")
	as(a, "would remove artifacts", "gc", "--keep-runs", "0", "--grace", "0s", "--dry-run", "p.hcl")
	as(a, "removed artifacts", "gc", "--keep-runs", "0", "--grace", "0s", "p.hcl")
	as(b, "all whole", "verify", "p.hcl")
	writeFileIn(t, dir, "m.hcl", fmt.Sprintf(sharedParts, dir))
	os.Chmod(filepath.Join(dir, "m.hcl"), 0o644)
	repositoryOf(t, a, filepath.Join(dir, "repo"))
	as(a, "2 stages ran", "run", "m.hcl")
	as(b, "Nothing to do", "run", "m.hcl")
	as(b, "1 stage ran", "run", "--force", "export.tiny", "m.hcl")
	err := filepath.WalkDir(store, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(store, p)
		if fetched := strings.Count(filepath.ToSlash(rel), "/") > 0 && strings.HasPrefix(rel, "modules"); fetched && st.Mode().Perm()&0o050 != 0o050 && d.IsDir() {
			t.Errorf("%s has mode %v: the group cannot read it", p, st.Mode())
		} else if !fetched && d.IsDir() && st.Mode().Perm()&0o070 != 0o070 {
			t.Errorf("%s has mode %v: the group cannot write there", p, st.Mode())
		}
		if !d.IsDir() && rel != "pipe.log" && st.Mode().Perm()&0o040 == 0 {
			t.Errorf("%s has mode %v: the group cannot read it", p, st.Mode())
		}
		if gid := st.Sys().(*syscall.Stat_t).Gid; gid != group {
			t.Errorf("%s belongs to group %d", p, gid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// repositoryOf makes a repository of a module, which belongs to a user.
func repositoryOf(t *testing.T, user int, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "part"), 0o777); err != nil {
		t.Fatal(err)
	}
	writeFileIn(t, dir, "part/m.hcl", "step \"a\" { text = \"one\" }\noutput \"rows\" { value = step.a.rows }\n")
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "all"}} {
		if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(p, user, user))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A store on another disk than the pipeline, and than the place of an export,
// works: nothing is renamed from one to the other.
func TestAStoreOnAnotherDisk(t *testing.T) {
	store, err := os.MkdirTemp("/dev/shm", "pipe-store-")
	if err != nil {
		t.Skip("there is no second disk here")
	}
	t.Cleanup(func() { os.RemoveAll(store) })
	dir := openDir(t)
	if diskOf(t, store) == diskOf(t, dir) {
		t.Skip("there is no second disk here")
	}
	writeFileIn(t, dir, "d.jsonl", `{"id":"x","text":"dat"}`)
	writeFileIn(t, dir, "p.hcl", `
model "tiny" { source = "embedded://tiny" }
data "d" { source = "./d.jsonl" }
step "b" { from = [data.d] }
export "tiny" {
  model   = model.tiny
  formats = ["gguf:f16"]
  path    = "./out"
  name    = "tiny"
}`)
	for i, want := range []string{"3 stages ran", "Nothing to do"} {
		out, code := pipeAs(t, 0, dir, "run", "--store", store, "p.hcl")
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("run %d: %d, want %q\n%s", i, code, want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "out", "gguf", "tiny-f16.gguf")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".pipe")); err == nil {
		t.Error("something was written beside the pipeline")
	}
	out, code := pipeAs(t, 0, dir, "verify", "--store", store, "--rerun", "export.tiny", "p.hcl")
	if code != 0 || !strings.Contains(out, "made the same again") {
		t.Errorf("%d\n%s", code, out)
	}
}

func diskOf(t *testing.T, path string) uint64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(st.Sys().(*syscall.Stat_t).Dev)
}
