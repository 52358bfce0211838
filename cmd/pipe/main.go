// Command pipe turns a base language model into an aligned specialist: it runs
// the stages that HCL files describe, and runs again only what changed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"pipe/runtime/stage"
	"pipe/stages"
)

// Exit codes: a contract with scripts and nightly jobs.
const (
	exitOK          = 0
	exitFailed      = 1   // a stage failed
	exitUsage       = 2   // wrong usage, or an error in the pipeline file
	exitGate        = 3   // a gate failed
	exitBudget      = 4   // a budget is used up; the next run goes on
	exitInterrupted = 130 // interrupted; the next run goes on
)

// A command is one subcommand. Its run writes results to the terminal's out
// and everything about them to err, and returns the exit code.
type command struct {
	name, args, about string
	run               func(ctx context.Context, t *app, args []string) int
}

// An app is one invocation of pipe.
type app struct {
	*terminal
	kinds []stage.Kind // that pipeline files may use
}

// commands lists the subcommands in the order help prints them.
func commands() []command {
	return []command{
		{"run", "FILE|DIR", "run what is not up to date", runRun},
		{"plan", "FILE|DIR", "say what would run, and why; runs nothing", runPlan},
		{"explain", "ADDR [FILE|DIR]", "say why a stage did or will run: what changed since it ran last", runExplain},
		{"trace", "ADDR.OUTPUT:ROW [FILE|DIR]", "follow a row to where it came from or was used", runTrace},
		{"diff", "RUN RUN [FILE|DIR]", "compare two runs: recipe, rows, metrics, cost", runDiff},
		{"validate", "FILE|DIR", "check a pipeline file", runValidate},
		{"fmt", "FILE|DIR...", "lay pipeline files out canonically", runFmt},
		{"graph", "FILE|DIR", "print the graph of stages", runGraph},
		{"ls", "[FILE|DIR]", "list stages and what they made", runLs},
		{"show", "ADDR|RUN [FILE|DIR]", "show what a stage made, or what a run did", runShow},
		{"cat", "ADDR.OUTPUT [FILE|DIR]", "print the rows of a table as JSON lines, or a file", runCat},
		{"lock", "FILE|DIR", "pin modules, models and data in pipe.lock, and fetch modules", runLock},
		{"bundle", "FILE|DIR", "pack a pipeline with all that it needs; pipe run runs the archive anywhere", runBundle},
		{"gc", "[FILE|DIR]", "remove what no recent run needs from the store", runGC},
		{"pin", "RUN [FILE|DIR]", "keep what a run made and used from gc", runPin},
		{"unpin", "RUN [FILE|DIR]", "let gc collect a run again", runUnpin},
		{"verify", "[FILE|DIR]", "check the content of the store, or that a stage makes the same again", runVerify},
		{"report", "[RUN] [FILE|DIR]", "write the report of a run: one HTML file", runReport},
		{"metrics", "[RUN] [FILE|DIR]", "print what a run measured; metrics diff A B compares two runs", runMetrics},
		{"baseline", "set|show|clear [RUN] [FILE|DIR]", "pin the run that later ones are compared with: baseline set RUN, show, clear", runBaseline},
		{"nightly", "FILE|DIR", "run, compare with the baseline, keep the history, write the report", runNightly},
		{"doctor", "[FILE|DIR]", "check this machine, the store and what the pipeline needs", runDoctor},
		{"docs", "", "write the reference documentation of all kinds and commands", runDocs},
		{"completion", "bash|zsh|fish", "print a script that completes command lines in a shell", runCompletion},
		{"help", "[KIND|COMMAND]", "explain a stage kind, another block or a command", runHelp},
		{"version", "", "print the version", runVersion},
	}
}

func main() { os.Exit(mainCode(stages.All)) }

// mainCode is main without os.Exit, with the kinds of stages that it knows.
func mainCode(kinds []stage.Kind) int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	return dispatch(ctx, &app{newTerminal(os.Stdout, os.Stderr), kinds}, os.Args[1:])
}

func dispatch(ctx context.Context, t *app, args []string) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
		usage(t.out)
		if len(args) == 0 {
			return exitUsage
		}
		return exitOK
	}
	if args[0] == completeCommand {
		return runComplete(ctx, t, args[1:])
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		if len(args) == 2 && (args[1] == "-h" || args[1] == "--help") {
			return helpOf(ctx, t, c)
		}
		return c.run(ctx, t, args[1:])
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	t.errorf("there is no command %q%s; pipe help lists them", args[0], suggest(args[0], names))
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "pipe turns a base language model into an aligned specialist.\n\nUsage: pipe COMMAND [ARGUMENTS] [FLAGS]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-33s %s\n", strings.TrimSpace(c.name+" "+c.args), c.about)
	}
	fmt.Fprint(w, "\npipe help COMMAND lists a command's flags; pipe help KIND explains a stage.\n"+
		"Exit codes: 0 done or nothing to do, 1 a stage failed, 2 usage or pipeline-file error, 3 a gate failed,\n"+
		"4 stopped by a budget, 130 interrupted; after these two the next run goes on.\n"+
		"PIPE_CPU=generic, avx2 or avx512 in the environment is the most of the processor that is used.\n")
}

// errUsage marks errors of usage that were printed already.
var errUsage = errors.New("usage")

// suggest returns ` (did you mean "x"?)` for the closest name, if one is close.
func suggest(got string, names []string) string {
	best, at := min(3, len(got)), ""
	for _, n := range names {
		if d := distance(got, n); d < best {
			best, at = d, n
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", at)
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diag
			if a[i] != b[j] {
				d = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
