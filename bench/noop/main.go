// Command noop times the whole process of `pipe run` with nothing to do, next
// to ninja and make on a chain as long:
//
//	go run ./bench/noop -n 100,1000,5000
//
// Each chain is one data source and n stages behind it, the next reading what
// the one before made: mix stages of one row for pipe, cp of one file for the
// peers. Everything is built once, and then left alone for longer than the two
// seconds within which times of files prove nothing. A round runs each program
// once, the first of them another one every round. "pipe" finds the stamp of its
// last run; "pipe, full" leaves none, and reads the pipeline each time. Printed
// are medians and quartiles in milliseconds. A peer that is not installed is left
// out.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	sizes := flag.String("n", "100,1000,5000", "lengths of the chains")
	rounds := flag.Int("rounds", 21, "rounds that count")
	program := flag.String("pipe", "", "time this `PROGRAM` instead of one built from this directory")
	flags := flag.String("flags", "", "more flags of pipe run")
	flag.Parse()
	if err := bench(*sizes, *rounds, *program, strings.Fields(*flags)); err != nil {
		fmt.Fprintln(os.Stderr, "noop:", err)
		os.Exit(1)
	}
}

func bench(sizes string, rounds int, pipe string, flags []string) error {
	dir, err := os.MkdirTemp("", "noop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if pipe == "" {
		pipe = filepath.Join(dir, "pipe")
		if out, err := exec.Command("go", "build", "-o", pipe, "./cmd/pipe").CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if pipe, err = filepath.Abs(pipe); err != nil {
		return err
	}
	fmt.Printf("%8s %-10s %10s %10s %10s  of %d runs\n", "stages", "program", "quartile", "median", "quartile", rounds)
	for field := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("-n %s: %q is no length", sizes, field)
		}
		if err := chain(filepath.Join(dir, field), n, rounds, append([]string{pipe, "run", "chain.hcl"}, flags...)); err != nil {
			return err
		}
	}
	return nil
}

// A program is run in its own directory, which is up to date.
type program struct {
	name string
	args []string
	dir  string
	took []time.Duration
}

func chain(dir string, n, rounds int, pipe []string) error {
	var programs []*program
	full := append(slices.Clone(pipe), "--log-level", "error")
	for _, p := range []*program{{name: "pipe", args: pipe}, {name: "pipe, full", args: full}, {name: "ninja", args: []string{"ninja"}}, {name: "make", args: []string{"make", "-s"}}} {
		if _, err := exec.LookPath(p.args[0]); err != nil {
			fmt.Fprintf(os.Stderr, "noop: %s is not installed and left out\n", p.name)
			continue
		}
		p.dir = filepath.Join(dir, p.name)
		if err := write(p.dir, n); err != nil {
			return err
		}
		if _, err := p.run(); err != nil { // the one that builds
			return err
		}
		programs = append(programs, p)
	}
	time.Sleep(3 * time.Second)
	for round := range rounds + 1 {
		for i := range programs {
			p := programs[(round+i)%len(programs)]
			took, err := p.run()
			if err != nil {
				return err
			}
			if round > 0 { // the first one warms the caches
				p.took = append(p.took, took)
			}
		}
	}
	for _, p := range programs {
		slices.Sort(p.took)
		at := func(q int) float64 { return float64(p.took[len(p.took)*q/4].Microseconds()) / 1000 }
		fmt.Printf("%8d %-10s %10.1f %10.1f %10.1f\n", n, p.name, at(1), at(2), at(3))
	}
	return nil
}

// write makes a directory with the chain as each program reads it.
func write(dir string, n int) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"chain.hcl": recipe(n), "build.ninja": ninjaFile(n), "Makefile": makefile(n),
		"row.jsonl": `{"text":"a row"}` + "\n", "s0": "a row\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) run() (time.Duration, error) {
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir = p.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	took := time.Since(begin)
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(p.args, " "), err, out.Bytes())
	}
	return took, nil
}

func recipe(n int) string {
	var b strings.Builder
	b.WriteString("data \"rows\" {\n  source = \"./row.jsonl\"\n}\n")
	from := "data.rows"
	for i := range n {
		fmt.Fprintf(&b, "\nmix \"s%d\" {\n  source \"r%d\" {\n    input  = %s\n    weight = 1\n  }\n}\n", i, i, from)
		from = fmt.Sprintf("mix.s%d.dataset", i)
	}
	return b.String()
}

func ninjaFile(n int) string {
	var b strings.Builder
	b.WriteString("rule cp\n  command = cp $in $out\n")
	for i := range n {
		fmt.Fprintf(&b, "build s%d: cp s%d\n", i+1, i)
	}
	return b.String()
}

func makefile(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "all: s%d\n", n)
	for i := range n {
		fmt.Fprintf(&b, "s%d: s%d\n\tcp s%d s%d\n", i+1, i, i, i+1)
	}
	return b.String()
}
