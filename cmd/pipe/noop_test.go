package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// chainOf writes a pipeline of n stages, each reading what the one before made.
func chainOf(tb testing.TB, n int) (path string) {
	tb.Helper()
	var b strings.Builder
	b.WriteString("data \"rows\" {\n  source = \"./row.jsonl\"\n}\n")
	from := "data.rows"
	for i := range n {
		fmt.Fprintf(&b, "\nmix \"s%d\" {\n  source \"r%d\" {\n    input  = %s\n    weight = 1\n  }\n}\n", i, i, from)
		from = fmt.Sprintf("mix.s%d.dataset", i)
	}
	dir := tb.TempDir()
	path = filepath.Join(dir, "chain.hcl")
	for name, text := range map[string]string{"chain.hcl": b.String(), "row.jsonl": `{"text":"a row"}` + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			tb.Fatal(err)
		}
	}
	return path
}

// BenchmarkNothingToDo is pipe run of a chain that is up to date, without the
// start of the process. bench/noop times whole processes.
func BenchmarkNothingToDo(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := chainOf(b, n)
			if code, _, err := ask(b, "run", path); code != exitOK {
				b.Fatal(err)
			}
			for b.Loop() {
				if code, out, _ := ask(b, "run", path); code != exitOK || !strings.HasPrefix(out, "Nothing to do") {
					b.Fatal(out)
				}
			}
		})
	}
}
