//go:build cuda

// Command cuda measures the CUDA backend: its kernels one by one, training and
// generation of models whose weights are made up, and loading. README.md beside
// it says how to run it on a machine that has a device and no Go.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"pipe/gpu"
	"pipe/gpu/cux"
)

const usage = `usage: bench-cuda COMMAND [flags]

  kernels   micro-benchmarks
  train     an adapter on a model with made-up weights
  decode    generation
  load      what the bus carries, and how fast a model is loaded
  paging    updates whose moments lie in the machine's memory
  table     print the lines that the others wrote to files

Each command writes a line of JSON for each measurement. -h after a command
lists its flags.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	commands := map[string]func(*flag.FlagSet, []string) error{"kernels": kernelsCommand, "train": trainCommand, "decode": decodeCommand, "load": loadCommand, "paging": pagingCommand, "table": tableCommand}
	run, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(flag.NewFlagSet(os.Args[1], flag.ExitOnError), os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// open opens the first device.
func open() (device, error) {
	b, err := gpu.Open(gpu.Options{})
	if err != nil {
		return device{}, err
	}
	return device{b, streamOf(b).Memory, cux.ErrOutOfMemory, streamOf(b).Calls}, nil
}

// streamOf returns the stream of a backend, for events and for memory of our
// own.
func streamOf(b any) *cux.Stream { return b.(interface{ Stream() *cux.Stream }).Stream() }

// report writes a record, or why there is none under that name.
func report(r record, name string, err error) error {
	if err != nil {
		r = record{Side: "pipe", Name: name, Error: err.Error()}
	}
	return errors.Join(err, r.write(os.Stdout))
}

func trainCommand(f *flag.FlagSet, args []string) error {
	var t training
	f.StringVar(&t.model, "model", "8b", "1b, 8b or tiny")
	f.StringVar(&t.adapter, "adapter", "lora", "lora, dora, or none to train all weights")
	f.BoolVar(&t.eight, "8bit", false, "moments of 8 bits")
	f.IntVar(&t.paged, "paged", 0, "parameters, from the first on, whose moments lie in the machine's memory")
	f.StringVar(&t.precision, "precision", "bf16", "of products with the weights: bf16, f32 or fp8")
	f.StringVar(&t.base, "base", "bf16", "type of the weights: bf16, nf4, q8_0, …")
	f.StringVar(&t.recompute, "recompute", "auto", "activations: true, false, or auto: when memory does not suffice")
	f.IntVar(&t.seq, "seq", 4096, "tokens of a row")
	f.IntVar(&t.documents, "documents", 1, "documents of a row")
	f.IntVar(&t.steps, "steps", 8, "steps that count")
	f.IntVar(&t.warm, "warm", 2, "steps before them")
	f.Parse(args)
	r, err := t.run(open)
	return report(r, t.name(), err)
}

func decodeCommand(f *flag.FlagSet, args []string) error {
	var g decoding
	var batches string
	f.StringVar(&g.model, "model", "8b", "1b, 8b or tiny")
	f.StringVar(&g.base, "base", "bf16", "type of the weights: bf16, nf4, q8_0, …")
	f.StringVar(&g.precision, "precision", "bf16", "of products with the weights: bf16, f32 or fp8")
	f.StringVar(&batches, "batch", "1,16,64", "numbers of sequences")
	f.IntVar(&g.prompt, "prompt", 512, "tokens of a prompt")
	f.IntVar(&g.fresh, "new", 128, "tokens of a continuation")
	f.Parse(args)
	for s := range strings.SplitSeq(batches, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("batch %q: must be numbers of sequences, such as 1,16", batches)
		}
		g.batches = append(g.batches, n)
	}
	err := g.run(open, func(r record) { r.write(os.Stdout) })
	if err != nil {
		return report(record{}, "decode "+g.model+" "+g.base, err)
	}
	return nil
}

func tableCommand(f *flag.FlagSet, args []string) error {
	f.Parse(args)
	return table(os.Stdout, f.Args())
}
