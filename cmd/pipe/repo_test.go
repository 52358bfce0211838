package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// commitAll commits all that lies in a directory, which becomes a repository:
// commit DIR.
func commitAll(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: commit DIR")
	}
	dir := ts.MkAbs(args[0])
	git := func(args ...string) {
		ts.Check(ts.Exec("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-C", dir}, args...)...))
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "all")
}

// expandFile replaces $NAME in a file by environment variables: expand FILE.
func expandFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), func(v string) string {
			if strings.HasPrefix(v, "{") {
				return "$" + v
			}
			return ts.Getenv(v)
		})
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o666))
	}
}

// editCheckout changes a file of each fetched module: edit MODULES.
func editCheckout(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: edit MODULES")
	}
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*", "own.txt"))
	if err != nil || len(files) == 0 {
		ts.Fatalf("no checkouts: %v", err)
	}
	for _, f := range files {
		ts.Check(os.WriteFile(f, []byte("other"), 0o666))
	}
}
