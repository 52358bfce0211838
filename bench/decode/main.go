// Command decode times generation against llama.cpp, on the same GGUF file and
// number of threads, in turn:
//
//	curl -LO https://huggingface.co/bartowski/SmolLM2-135M-Instruct-GGUF/resolve/main/SmolLM2-135M-Instruct-Q8_0.gguf
//	python3 -m venv venv && venv/bin/pip install numpy llama-cpp-python==0.3.36
//	go run ./bench/decode -model SmolLM2-135M-Instruct-Q8_0.gguf -python venv/bin/python
//
// pip compiles llama.cpp for the processor it runs on. The workloads are one
// sequence after a short prompt, a long prompt, and many sequences after short
// prompts, all greedy. A round is one workload by both, one after the other,
// from the token ids of the prompts to those of the continuations; the first
// round is not counted. It prints tokens a second, the median of the rounds'
// ratios, and whether the sequences are the same: llama.cpp rounds activations to
// eight bits for quantised weights, so that near ties may part.
//
// Without -python, pipe runs alone: -workload and -cpuprofile tell what it does.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipe/model"
	"pipe/model/pretrained"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

//go:embed peer.py
var peer []byte

type options struct {
	model, python, workload, profile          string
	precision                                 string
	rounds, threads, tokens, prompt, parallel int
}

func main() {
	var o options
	flag.StringVar(&o.model, "model", "", "a GGUF file")
	flag.StringVar(&o.python, "python", "", "a Python with numpy and llama-cpp-python; none: pipe alone")
	flag.StringVar(&o.workload, "workload", "", "only this one: one, prefill or parallel")
	flag.StringVar(&o.profile, "cpuprofile", "", "write pipe's profile to this file")
	flag.StringVar(&o.precision, "precision", "f32", "of pipe's products with the weights: f32, bf16 or fp8")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds that count")
	flag.IntVar(&o.threads, "threads", 2, "threads of each")
	flag.IntVar(&o.tokens, "tokens", 128, "length of a continuation")
	flag.IntVar(&o.prompt, "prompt", 512, "length of the long prompt")
	flag.IntVar(&o.parallel, "parallel", 16, "sequences that run in parallel")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "decode:", err)
		os.Exit(1)
	}
}

// A workload is prompts that are continued by so many tokens each.
type workload struct {
	name    string
	prompts [][]int32
	tokens  int
	count   int // of the rate: tokens read or made
}

const passage = `Rain had fallen on the hills all night, and by the morning the river stood higher than anyone in the village
remembered. The miller, who kept a record of every flood since his grandfather's time, walked along the bank with a
notched stick and wrote the numbers down. At nine he told the council that the bridge would hold; at ten he told them
to close it. Nobody asked what had changed his mind, because the water could be heard from the market square. `

var topics = []string{"bread", "the tides", "copper wire", "a violin", "glaciers", "the printing press", "honey", "a telescope",
	"silk", "the compass", "volcanoes", "paper", "a lighthouse", "the steam engine", "coral", "maps"}

// workloads makes prompts of text; none is a prefix of another.
func workloads(o options, m *pretrained.Model) []workload {
	encode := func(text string) []int32 {
		ids := m.Tokenizer.Encode(text)
		if m.BOS >= 0 && (len(ids) == 0 || ids[0] != m.BOS) {
			ids = append([]int32{m.BOS}, ids...)
		}
		return ids
	}
	long := encode(strings.Repeat(passage, 1+o.prompt/50))[:o.prompt]
	many := make([][]int32, o.parallel)
	for i := range many {
		many[i] = encode(fmt.Sprintf("%d. Here is what a child should know about %s:", i+1, topics[i%len(topics)]))
	}
	return []workload{
		{"one", [][]int32{encode("The most surprising thing about the history of bread is")}, o.tokens, o.tokens},
		{"prefill", [][]int32{long}, 1, o.prompt},
		{"parallel", many, o.tokens, o.tokens * o.parallel},
	}
}

// A lap is what one side did in one round.
type lap struct {
	Seconds float64   `json:"seconds"`
	IDs     [][]int32 `json:"ids"`
}

func run(ctx context.Context, o options) error {
	m, err := pretrained.Open(o.model)
	if err != nil {
		return err
	}
	defer m.Close()
	b := cpu.New(o.threads)
	defer b.Close()
	d, err := model.Load(b, m.Config, m.Weights, false)
	if err != nil {
		return err
	}
	d.SetPrecision(tensor.Precision(o.precision))
	defer d.Close()
	var theirs *process
	if o.python != "" {
		if theirs, err = startPeer(ctx, o); err != nil {
			return err
		}
		defer theirs.stop()
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Printf("pipe: %s, %d threads, %s\n", b.Name(), o.threads, filepath.Base(o.model))
	for _, w := range workloads(o, m) {
		if o.workload != "" && o.workload != w.name {
			continue
		}
		if err := compare(ctx, o, w, d, theirs); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// compare runs the rounds of one workload and prints what came out.
func compare(ctx context.Context, o options, w workload, d *model.Decoder, theirs *process) error {
	var mine, peers, ratios []float64
	var a, b lap
	for round := range o.rounds + 1 {
		var err error
		if a, err = ours(ctx, d, w); err != nil {
			return err
		}
		if theirs != nil {
			if b, err = theirs.lap(w); err != nil {
				return err
			}
		}
		if round > 0 {
			mine, peers = append(mine, float64(w.count)/a.Seconds), append(peers, float64(w.count)/b.Seconds)
			ratios = append(ratios, b.Seconds/a.Seconds)
		}
	}
	if theirs == nil {
		fmt.Printf("%s: pipe %.1f tokens/s, best %.1f\n", w.name, median(mine), slices.Max(mine))
		return nil
	}
	equal, agree := 0, w.tokens
	for i := range a.IDs {
		n := parting(a.IDs[i], b.IDs[i])
		if agree = min(agree, n); n == w.tokens {
			equal++
		}
	}
	fmt.Printf("%s: pipe %.1f tokens/s, best %.1f; llama.cpp %.1f, best %.1f; median ratio %.2f (%.2f to %.2f); %d of %d sequences equal, all for %d of %d tokens\n",
		w.name, median(mine), slices.Max(mine), median(peers), slices.Max(peers), median(ratios), slices.Min(ratios), slices.Max(ratios),
		equal, len(a.IDs), agree, w.tokens)
	return nil
}

// parting is the first place where a and b differ.
func parting(a, b []int32) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

func ours(ctx context.Context, d *model.Decoder, w workload) (lap, error) {
	reqs := make([]model.Request, len(w.prompts))
	for i, p := range w.prompts {
		reqs[i] = model.Request{Prompt: p, MaxTokens: w.tokens}
	}
	l := lap{IDs: make([][]int32, len(reqs))}
	start := time.Now()
	err := d.Generate(ctx, reqs, model.GenerateOptions{Batch: len(reqs)}, func(i int, r model.Result) error {
		l.IDs[i] = r.IDs
		return nil
	})
	l.Seconds = time.Since(start).Seconds()
	return l, err
}

// A process is the peer, which works when told.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	dir string
}

func startPeer(ctx context.Context, o options) (*process, error) {
	dir, err := os.MkdirTemp("", "decode")
	if err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "peer.py")
	if err := os.WriteFile(script, peer, 0o600); err != nil {
		return nil, err
	}
	room := max(o.prompt, 64+o.tokens) + 1 // tokens of a sequence
	p := &process{dir: dir, cmd: exec.CommandContext(ctx, o.python, script, o.model,
		strconv.Itoa(o.threads), strconv.Itoa(room), strconv.Itoa(o.parallel))}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var hello struct{ Ready string }
	if err := p.out.Decode(&hello); err != nil {
		return nil, fmt.Errorf("the peer did not start: %w", err)
	}
	fmt.Println("llama.cpp:", hello.Ready)
	return p, nil
}

func (p *process) lap(w workload) (l lap, err error) {
	job := struct {
		Prompts [][]int32 `json:"prompts"`
		Tokens  int       `json:"tokens"`
	}{w.prompts, w.tokens}
	if err := json.NewEncoder(p.in).Encode(job); err != nil {
		return l, err
	}
	if err := p.out.Decode(&l); err != nil {
		return l, fmt.Errorf("the peer ended: %w", err)
	}
	return l, nil
}

func (p *process) stop() {
	p.in.Close()
	p.cmd.Wait()
	os.RemoveAll(p.dir)
}
