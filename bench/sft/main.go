// Command sft times fine-tuning with an adapter of rank 16 on all linear layers
// against PyTorch and PEFT, or against itself with other settings, on the same
// packed rows, in turn:
//
//	pipe cat pack.train.dataset pipelines/legal.hcl > rows.jsonl
//	go run ./bench/sft -model MODEL -rows rows.jsonl -precision bf16 -python python3 -peer-model DIR -dtype bf16
//	go run ./bench/sft -model MODEL -rows rows.jsonl -vs '-adapter lora'
//
// MODEL is what pipe trains on (a GGUF file or a directory), DIR a Hugging Face
// directory of the same weights for the peer (the export of the base with dtype
// "f32"). A round is -steps optimizer steps of one row each by both, one after
// the other, each in a process of its own; the first round is not counted. It
// prints useful tokens (those of the rows, no padding) a second, the median of
// the rounds' ratios, and the peak memory of both processes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

type options struct {
	worker                 worker
	vs                     string
	peerModel, python      string
	layout, dtype          string
	compile, serve         bool
	steps, rounds, threads int
}

func main() {
	var o options
	w := &o.worker
	flag.StringVar(&w.model, "model", "", "the model that pipe trains on")
	flag.StringVar(&w.rows, "rows", "", "packed rows as JSON lines")
	flag.StringVar(&w.adapter, "adapter", "dora", "lora or dora")
	flag.StringVar(&w.precision, "precision", "f32", "of pipe: f32, bf16 or fp8")
	flag.StringVar(&w.quantize, "quantize", "", "quantise pipe's base: nf4, or \"\": as it is")
	flag.StringVar(&w.optimizer, "optimizer", "adamw", "of pipe: adamw or adamw_8bit")
	flag.BoolVar(&w.recompute, "checkpointing", false, "let pipe checkpoint activations")
	flag.StringVar(&w.profile, "cpuprofile", "", "write a profile of pipe's rounds that count to this file, for go tool pprof")
	flag.Float64Var(&w.lr, "lr", 1e-4, "learning rate")
	flag.IntVar(&o.threads, "threads", 2, "threads of each")
	flag.StringVar(&o.vs, "vs", "", "compare with pipe with these flags changed, instead of the peer")
	flag.StringVar(&o.python, "python", "", "a Python with torch, transformers and peft")
	flag.StringVar(&o.peerModel, "peer-model", "", "Hugging Face directory of the same weights")
	flag.StringVar(&o.layout, "layout", "packed", "of the peer: packed or padded")
	flag.StringVar(&o.dtype, "dtype", "f32", "of the peer: f32 or bf16")
	flag.BoolVar(&o.compile, "compile", false, "let the peer compile its model")
	flag.IntVar(&o.steps, "steps", 4, "optimizer steps of a round")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds that count")
	flag.BoolVar(&o.serve, "serve", false, "take steps when told on standard input, as the peer does")
	flag.Parse()
	w.threads = o.threads
	err := error(nil)
	if o.serve {
		err = w.serve(os.Stdin, os.Stdout)
	} else {
		err = run(context.Background(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sft:", err)
		os.Exit(1)
	}
}

// A lap is what one side did in one round.
type lap struct {
	Seconds float64   `json:"seconds"`
	Tokens  int       `json:"tokens"`
	Losses  []float64 `json:"losses"`
	RSS     float64   `json:"rss_mib"` // peak of the process so far
}

func (l lap) rate() float64 { return float64(l.Tokens) / l.Seconds }

func (l lap) String() string {
	return fmt.Sprintf("%.1f tokens/s, last loss %.4f", l.rate(), l.Losses[len(l.Losses)-1])
}

// sides starts pipe and, unless it runs alone, what it is compared with.
func sides(ctx context.Context, o options) (names []string, sides []*process, err error) {
	self := func(changed ...string) (*process, error) {
		var args []string
		flag.Visit(func(f *flag.Flag) {
			if f.Name != "vs" && f.Name != "python" {
				args = append(args, "-"+f.Name+"="+f.Value.String())
			}
		})
		return start(exec.CommandContext(ctx, os.Args[0], append(append(args, changed...), "-serve")...))
	}
	p, err := self()
	if err != nil {
		return nil, nil, err
	}
	names, sides = []string{"pipe"}, []*process{p}
	switch {
	case o.vs != "":
		names = append(names, "pipe "+o.vs)
		p, err = self(append(strings.Fields(o.vs), "-cpuprofile=")...)
	case o.python != "":
		names = append(names, fmt.Sprintf("peer %s %s compiled=%t", o.layout, o.dtype, o.compile))
		p, err = startPeer(ctx, o)
	default:
		return names, sides, nil
	}
	if err != nil {
		sides[0].stop()
		return nil, nil, err
	}
	return names, append(sides, p), nil
}

func run(ctx context.Context, o options) error {
	names, ps, err := sides(ctx, o)
	if err != nil {
		return err
	}
	for i, p := range ps {
		defer p.stop()
		fmt.Printf("%s: %s\n", names[i], p.ready)
	}
	rates, laps := make([][]float64, len(ps)), make([]lap, len(ps))
	var ratios []float64
	for round := range o.rounds + 1 {
		for i, p := range ps {
			if laps[i], err = p.lap(o.steps); err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
			fmt.Printf("round %d: %s %v\n", round, names[i], laps[i])
			if round > 0 {
				rates[i] = append(rates[i], laps[i].rate())
			}
		}
		if round > 0 && len(ps) > 1 {
			ratios = append(ratios, laps[0].rate()/laps[1].rate())
		}
	}
	w := o.worker
	fmt.Printf("%s %s %s: %.1f tokens/s, %.0f MiB", w.adapter, w.precision, w.quantize, median(rates[0]), laps[0].RSS)
	if len(ps) > 1 {
		fmt.Printf("; %s: %.1f tokens/s, %.0f MiB; median ratio %.2f (%.2f to %.2f), memory %.2f", names[1], median(rates[1]), laps[1].RSS,
			median(ratios), slices.Min(ratios), slices.Max(ratios), laps[0].RSS/laps[1].RSS)
	}
	fmt.Println()
	return nil
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

func startPeer(ctx context.Context, o options) (*process, error) {
	script, err := peerScript()
	if err != nil {
		return nil, err
	}
	p, err := start(exec.CommandContext(ctx, o.python, script, o.peerModel, o.worker.rows, o.worker.adapter, o.layout, o.dtype,
		strconv.FormatBool(o.compile), strconv.Itoa(o.threads), strconv.FormatFloat(o.worker.lr, 'g', -1, 64)))
	if err != nil {
		os.Remove(script)
		return nil, err
	}
	p.script = script
	return p, nil
}
