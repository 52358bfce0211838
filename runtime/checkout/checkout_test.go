package checkout

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for source, want := range map[string]Source{
		"git::https://example.org/r.git":                       {Repo: "https://example.org/r.git"},
		"git::https://example.org/a/r.git//":                   {Repo: "https://example.org/a/r.git"},
		"git::https://example.org:8443/r//modules/prep?ref=v1": {Repo: "https://example.org:8443/r", Dir: "modules/prep", Ref: "v1"},
		"git::ssh://git@example.org/r.git//m?ref=feature/x":    {Repo: "ssh://git@example.org/r.git", Dir: "m", Ref: "feature/x"},
		"git::file:///srv/r.git//m/":                           {Repo: "file:///srv/r.git", Dir: "m"},
		"git::file:///srv/a%20b":                               {Repo: "file:///srv/a%20b"},
	} {
		got, err := Parse(source)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", source, got, err)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%s: spelled %s, which reads %+v, %v", source, got, again, err)
		}
	}
}

// What could make git do anything but fetch is refused before git sees it.
func TestParseRefuses(t *testing.T) {
	for _, source := range []string{
		"", "git::", "https://example.org/r", "git::example.org:r.git", "git::-oProxyCommand=x", "git::ext::sh -c x", "git::ext::sh%20-c%20x",
		"git::ext://x/y", "git::http://example.org/r", "git::git://example.org/r", "git::ftp://example.org/r",
		"git::https:///r", "git::https://-x/r", "git::ssh://-oProxyCommand=x/r", "git::ssh://-x@example.org/r", "git::https://user@example.org/r",
		"git::https://user:secret@example.org/r", "git::ssh://u:p@example.org/r", "git::file://host/r", "git::file:r", "git::https://example.org", "git::https://example.org//m",
		"git::https://example.org/r//../x", "git::https://example.org/r//a/../../x", "git::https://example.org/r//.git/hooks", "git::https://example.org/r//a//b",
		"git::https://example.org/r?ref=-x", "git::https://example.org/r?ref=a..b", "git::https://example.org/r?ref=", "git::https://example.org/r?ref=a&ref=b",
		"git::https://example.org/r?depth=1", "git::https://example.org/r#v1", "git::https://example.org/a b", "git::https://example.org/a\nb", "git::https://example.org/r?ref=a%0ab",
	} {
		if s, err := Parse(source); err == nil {
			t.Errorf("%q was read as %+v", source, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("git::https://example.org/r.git//m?ref=v1")
	f.Add("git::ssh://git@[::1]:22/r//m%2F..")
	f.Add("git::file:///r//%2e%2e/x")
	f.Fuzz(func(t *testing.T, source string) {
		s, err := Parse(source)
		if err != nil {
			return
		}
		if strings.HasPrefix(s.Repo, "-") || strings.HasPrefix(s.Ref, "-") || s.Dir != "" && !filepath.IsLocal(filepath.FromSlash(s.Dir)) {
			t.Errorf("%q: %+v", source, s)
		}
		if !strings.HasPrefix(s.Repo, "https://") && !strings.HasPrefix(s.Repo, "ssh://") && !strings.HasPrefix(s.Repo, "file:///") {
			t.Errorf("%q: %+v", source, s)
		}
		if again, err := Parse(s.String()); err != nil || again != s {
			t.Errorf("%q: %+v is spelled %q, which reads %+v, %v", source, s, s, again, err)
		}
	})
}

// A repo is a git repository of the test.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here")
	}
	t.Setenv("HOME", t.TempDir()) // no settings of this machine
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	r := repo{t, filepath.Join(t.TempDir(), "repo")}
	r.git("init", "-q", "-b", "main", r.dir)
	return r
}

func (r repo) git(args ...string) string {
	r.t.Helper()
	if args[0] != "init" {
		args = append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)
	}
	out, err := exec.Command("git", args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repo) commit(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		r.t.Fatal(err)
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", name)
	return r.git("rev-parse", "HEAD")
}

func (r repo) source(rest string) Source {
	r.t.Helper()
	s, err := Parse("git::file://" + filepath.ToSlash(r.dir) + rest)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func TestFetch(t *testing.T) {
	r := newRepo(t)
	ctx := context.Background()
	first := r.commit("m/main.hcl", "one")
	r.git("tag", "-a", "v1", "-m", "annotated")
	r.git("tag", "both")
	second := r.commit("m/main.hcl", "two")
	r.git("branch", "both")
	c := Cache{Dir: filepath.Join(t.TempDir(), "modules")}
	for ref, want := range map[string]string{"": second, "?ref=main": second, "?ref=v1": first, "?ref=both": first, "?ref=" + first: first} {
		s := r.source("//m" + ref)
		if commit, err := c.Known(s); !s.Pinned() && err != ErrAbsent {
			t.Errorf("%q is known as %s, %v", ref, commit, err)
		}
		commit, err := c.Ask(ctx, s)
		if err != nil || commit != want {
			t.Errorf("%q: got %s, %v; want %s", ref, commit, err, want)
		}
		if known, err := c.Known(s); err != nil || known != want {
			t.Errorf("%q is known as %s, %v", ref, known, err)
		}
	}
	s := r.source("//m?ref=v1")
	if _, _, err := c.Find(s, first); err != ErrAbsent {
		t.Errorf("not fetched: %v", err)
	}
	for range 2 {
		if err := c.Fetch(ctx, s, first); err != nil {
			t.Fatal(err)
		}
	}
	dir, root, err := c.Find(s, first)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "main.hcl")); err != nil || string(b) != "one" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(root, ".git")); err == nil {
		t.Error("git's own directory was left")
	}
	was, err := Digest(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.hcl"), []byte("one!"), 0o666); err != nil {
		t.Fatal(err)
	}
	if now, err := Digest(root); err != nil || now == was {
		t.Errorf("a changed file does not change the digest: %v", err)
	}
	if _, _, err := c.Find(r.source("//none"), first); err == nil || !strings.Contains(err.Error(), "has no directory none") {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := c.Ask(ctx, r.source("?ref=none")); err == nil || !strings.Contains(err.Error(), `no branch or tag "none"`) {
		t.Errorf("a ref that is not there: %v", err)
	}
	missing := strings.Repeat("0", 40)
	if err := c.Fetch(ctx, s, missing); err == nil || !strings.Contains(err.Error(), "has no commit") {
		t.Errorf("a commit that is not there: %v", err)
	}
	if entries, err := os.ReadDir(c.Dir); err != nil || len(entries) != 2 { // refs, first
		t.Errorf("failures left something behind: %v, %v", entries, err)
	}
}

// A commit that no ref names any more is still brought where the server gives
// it, and named clearly where it does not.
func TestFetchOfAnOldCommit(t *testing.T) {
	r := newRepo(t)
	old := r.commit("m.hcl", "one")
	r.commit("m.hcl", "two")
	c := Cache{Dir: filepath.Join(t.TempDir(), "modules")}
	t.Setenv("GIT_CONFIG_COUNT", "1") // protocol 0 asks for refs only
	t.Setenv("GIT_CONFIG_KEY_0", "protocol.version")
	t.Setenv("GIT_CONFIG_VALUE_0", "0")
	if err := c.Fetch(context.Background(), r.source(""), old); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(c.Dir, old, "m.hcl")); err != nil || string(b) != "one" {
		t.Errorf("got %q, %v", b, err)
	}
}

// Links in a repository lead nowhere, and its hooks and filters run nothing.
func TestHostileRepositories(t *testing.T) {
	r := newRepo(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(r.dir, "link")); err != nil {
		t.Skip("no symbolic links here")
	}
	if err := os.Symlink("/", filepath.Join(r.dir, "dir")); err != nil {
		t.Fatal(err)
	}
	commit := r.commit(".gitattributes", "* filter=lfs text eol=crlf\n")
	home, ran := os.Getenv("HOME"), filepath.Join(t.TempDir(), "ran")
	settings := "[filter \"lfs\"]\n\tsmudge = touch " + ran + "\n\trequired = true\n[init]\n\ttemplateDir = " + home + "/template\n"
	hook := "#!/bin/sh\ntouch " + ran + "\n"
	for name, text := range map[string]string{".gitconfig": settings, "template/hooks/post-checkout": hook} {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := Cache{Dir: filepath.Join(t.TempDir(), "modules")}
	if err := c.Fetch(context.Background(), r.source(""), commit); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "dir"} {
		info, err := os.Lstat(filepath.Join(c.Dir, commit, name))
		if err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s is %v, %v", name, info, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program of the settings or the repository ran")
	}
	if _, err := Digest(filepath.Join(c.Dir, commit)); err != nil {
		t.Error(err)
	}
}

func TestFailuresOfGit(t *testing.T) {
	r := newRepo(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := Cache{Dir: t.TempDir()}
	if _, err := c.Ask(ctx, r.source("")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.Git = "no-such-program"
	if _, err := c.Ask(context.Background(), r.source("")); err == nil || !strings.Contains(err.Error(), "need the program git") {
		t.Errorf("without git: %v", err)
	}
	c.Git = ""
	s, err := Parse("git::file:///nowhere/at/all")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(context.Background(), s); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("no repository: %v", err)
	}
	if _, err := Digest(filepath.Join(c.Dir, "none")); err == nil {
		t.Error("a directory that is not there has a digest")
	}
}

func TestGitEnv(t *testing.T) {
	got := strings.Join(gitEnv([]string{"GIT_DIR=/x", "GIT_ALLOW_PROTOCOL=ext", "HOME=/h", "GIT_TERMINAL_PROMPT=1"}), " ")
	if !strings.HasPrefix(got, "HOME=/h GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=https:ssh:file ") {
		t.Errorf("got %s", got)
	}
}
