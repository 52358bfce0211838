package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"pipe/runtime/lang"
)

// The scripts of the shells ask this program for what could stand where the
// cursor is: pipe __complete WORD... with the words up to the cursor, the last
// of them incomplete. It answers with a line each, NAME or NAME, a tab and
// what it is; the line :files stands for the names of files.
var (
	//go:embed completion/pipe.bash
	bashCompletion string
	//go:embed completion/pipe.zsh
	zshCompletion string
	//go:embed completion/pipe.fish
	fishCompletion string
)

// completeCommand is the hidden command that the scripts call.
const completeCommand = "__complete"

var shells = []string{"bash", "fish", "zsh"}

func runCompletion(_ context.Context, t *app, args []string) int {
	_, pos, err := parse(t, "completion", args, nil)
	if err != nil {
		return usageCode(err)
	}
	switch pos[0] {
	case "bash":
		fmt.Fprint(t.out, bashCompletion)
	case "zsh":
		fmt.Fprint(t.out, zshCompletion)
	case "fish":
		fmt.Fprint(t.out, fishCompletion)
	default:
		t.errorf("there is no completion for %q%s; there is one for bash, zsh and fish", pos[0], suggest(pos[0], shells))
		return exitUsage
	}
	return exitOK
}

// A choice is one completion.
type choice struct{ name, about string }

// files is the choice of any file.
var filesChoice = choice{name: ":files"}

func runComplete(ctx context.Context, t *app, words []string) int {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	for _, c := range choices(ctx, t, words) {
		// A flag and its value may be one word, of which bash makes three.
		prefix, value, joined := strings.Cut(last, "=")
		switch {
		case c == filesChoice:
		case strings.HasPrefix(c.name, last):
		case joined && prefix == "" && strings.HasPrefix(c.name, value): // bash's "="
		case joined && strings.HasPrefix(last, "-") && strings.HasPrefix(c.name, value):
			c.name = prefix + "=" + c.name
		default:
			continue
		}
		if c.about == "" {
			fmt.Fprintln(t.out, c.name)
		} else {
			fmt.Fprintf(t.out, "%s\t%s\n", c.name, clean(c.about))
		}
	}
	return exitOK
}

// choices returns what may stand in the place of the last word.
func choices(ctx context.Context, t *app, words []string) (out []choice) {
	if len(words) == 1 {
		for _, c := range commands() {
			out = append(out, choice{c.name, c.about})
		}
		return out
	}
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == words[0] })
	if i < 0 {
		return nil
	}
	c := commands()[i]
	fs := flagsOf(ctx, t, c)
	line := readLine(fs, words[1:])
	switch {
	case line.flag != "":
		return flagValues(t, line)
	case strings.HasPrefix(line.last, "-"):
		fs.VisitAll(func(f *flag.Flag) {
			_, usage := flag.UnquoteUsage(f)
			out = append(out, choice{"--" + f.Name, usage})
		})
		return out
	case c.name == "help":
		return helpTopics(t)
	case c.name == "completion":
		for _, s := range shells {
			out = append(out, choice{name: s})
		}
		return out
	}
	args := strings.Fields(c.args)
	at := min(len(line.args), len(args)-1)
	switch {
	case at < 0:
		return nil
	case strings.Contains(args[at], "ADDR.OUTPUT"):
		return addresses(t, line, true)
	case strings.Contains(args[at], "ADDR"):
		return addresses(t, line, false)
	}
	return []choice{filesChoice}
}

// A commandLine is one that is being typed.
type commandLine struct {
	last string   // the incomplete word
	flag string   // whose value the incomplete word is, without hyphens
	args []string // arguments before the incomplete word
	vars map[string]string
}

func readLine(fs *flag.FlagSet, words []string) (l commandLine) {
	l.vars = map[string]string{}
	n := len(words) - 1
	l.last = words[n]
	for i := 0; i < len(words); i++ {
		w := words[i]
		name, value, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
		if f := fs.Lookup(name); !strings.HasPrefix(w, "-") || f == nil {
			if i < n && w != "=" {
				l.args = append(l.args, w)
			}
			continue
		} else if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			continue
		}
		if !joined {
			if i++; i <= n && words[i] == "=" { // bash makes three words of one
				if i == n {
					l.flag = name
					return l
				}
				i++
			}
			if i <= n {
				value = words[i]
			}
		}
		if i == n {
			l.flag = name
		}
		if k, v, ok := strings.Cut(value, "="); ok && name == "var" && i < n {
			l.vars[k] = v
		}
	}
	return l
}

// flagValues returns the values that a flag may have.
func flagValues(t *app, l commandLine) (out []choice) {
	fixed := map[string][]string{
		"device": {"auto", "cpu", "cuda"}, "executor": {"local", "slurm"}, "format": {"dot", "mermaid", "json"},
		"log-level": {"debug", "info", "warn", "error"}, "only": {"commands", "kinds"}, "progress": {"auto", "plain", "json", "none"},
	}
	switch {
	case fixed[l.flag] != nil:
		for _, v := range fixed[l.flag] {
			out = append(out, choice{name: v})
		}
		return out
	case slices.Contains([]string{"n", "parallelism", "timeout", "file"}, l.flag):
		return nil
	case l.flag == "target" || l.flag == "force" || l.flag == "rerun":
		return addresses(t, l, false)
	case l.flag == "var":
		_, blocks := pipelineOf(t, l)
		for _, b := range blocks {
			if b.Type == "variable" {
				out = append(out, choice{name: b.Labels[0] + "="})
			}
		}
		return out
	}
	return []choice{filesChoice}
}

func helpTopics(t *app) (out []choice) {
	for _, c := range commands() {
		out = append(out, choice{c.name, c.about})
	}
	for _, k := range t.kinds {
		out = append(out, choice{k.Name, title(k.Doc)})
	}
	for _, b := range blocks() {
		out = append(out, choice{b.name, title(b.doc)})
	}
	return out
}

// pipelineOf loads the pipeline that the command line names, else that of the
// directory. The program is nil if it has errors; there are its blocks still.
func pipelineOf(t *app, l commandLine) (prog *lang.Program, blocks []*hclsyntax.Block) {
	path := "."
	for _, a := range l.args {
		if info, err := os.Stat(a); err == nil && (info.IsDir() || filepath.Ext(a) == ".hcl") {
			path = a
		}
	}
	load := lang.Options{Vars: l.vars, Env: os.LookupEnv}
	if p, err := openPins(&options{}, path); err == nil {
		load.Module = p.module
	}
	prog, diags := lang.Load(path, t.kinds, load)
	for _, name := range sortedKeys(prog.Files) {
		if body, ok := prog.Files[name].Body.(*hclsyntax.Body); ok {
			for _, b := range body.Blocks {
				if len(b.Labels) == 1 {
					blocks = append(blocks, b)
				}
			}
		}
	}
	if diags.HasErrors() {
		prog = nil
	}
	return prog, blocks
}

// addresses returns those of blocks and of the instances of swept ones, or of
// the outputs of stages.
func addresses(t *app, l commandLine, outputs bool) (out []choice) {
	prog, blocks := pipelineOf(t, l)
	if prog == nil {
		for _, b := range blocks {
			if !slices.Contains([]string{"pipeline", "variable"}, b.Type) {
				out = append(out, choice{name: b.Type + "." + b.Labels[0]})
			}
		}
		return out
	}
	seen := map[string]bool{}
	for _, n := range prog.Nodes {
		switch {
		case outputs && n.Stage != nil:
			for _, name := range n.OutputNames() {
				out = append(out, choice{name: strings.TrimSuffix(n.Addr+"."+name, ".")})
			}
		case !outputs:
			if n.Swept && !seen[n.Block] {
				seen[n.Block] = true
				out = append(out, choice{name: n.Block})
			}
			out = append(out, choice{name: n.Addr})
		}
	}
	return out
}
