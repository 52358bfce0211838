// Command sft times fine-tuning with an adapter of rank 16 on all linear layers
// against PyTorch and PEFT, on the same packed rows, in turn:
//
//	pipe cat pack.train.dataset pipelines/legal.hcl > rows.jsonl
//	go run ./bench/sft -model MODEL -peer-model DIR -rows rows.jsonl -python python3
//
// MODEL is what pipe trains on (a GGUF file or a directory), DIR a Hugging Face
// directory of the same weights for the peer (the export of the base with dtype
// "f32"). A round is -steps optimizer steps of one row each by both, one after
// the other; the first round of each is not counted. It prints useful tokens
// (those of the rows, no padding) a second and the median of the rounds' ratios.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"time"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/train"
)

//go:embed peer.py
var peer []byte

type options struct {
	model, peerModel, rows, python string
	adapter, layout, dtype         string
	profile, precision             string
	compile, recompute             bool
	steps, rounds, threads         int
	lr                             float64
}

func main() {
	var o options
	flag.StringVar(&o.model, "model", "", "the model that pipe trains on")
	flag.StringVar(&o.peerModel, "peer-model", "", "Hugging Face directory of the same weights")
	flag.StringVar(&o.rows, "rows", "", "packed rows as JSON lines")
	flag.StringVar(&o.python, "python", "python3", "a Python with torch, transformers and peft; \"\": no peer")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a profile of pipe's rounds that count to this file, for go tool pprof")
	flag.StringVar(&o.adapter, "adapter", "dora", "lora or dora")
	flag.StringVar(&o.layout, "layout", "packed", "of the peer: packed or padded")
	flag.StringVar(&o.dtype, "dtype", "f32", "of the peer: f32 or bf16")
	flag.StringVar(&o.precision, "precision", "f32", "of pipe: f32 or bf16")
	flag.BoolVar(&o.compile, "compile", false, "let the peer compile its model")
	flag.BoolVar(&o.recompute, "checkpointing", false, "let pipe checkpoint activations")
	flag.IntVar(&o.steps, "steps", 4, "optimizer steps of a round")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds that count")
	flag.IntVar(&o.threads, "threads", 2, "threads of each")
	flag.Float64Var(&o.lr, "lr", 1e-4, "learning rate")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "sft:", err)
		os.Exit(1)
	}
}

// A row is a line of pack's dataset.
type row struct {
	IDs    []int32 `json:"ids"`
	Starts []int32 `json:"starts"`
	Loss   []int32 `json:"loss"`
}

// batch scores each learned token at the token before it; the first token of a
// document is not learned.
func (r row) batch() model.Batch {
	b := model.Batch{IDs: r.IDs, Starts: r.Starts}
	for i := 0; i+1 < len(r.Loss); i += 2 {
		for t := r.Loss[i]; t < r.Loss[i+1]; t++ {
			if !slices.Contains(r.Starts, t) {
				b.Rows, b.Targets = append(b.Rows, t-1), append(b.Targets, r.IDs[t])
			}
		}
	}
	return b
}

func readRows(path string) (rows []model.Batch, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for dec := json.NewDecoder(f); ; {
		var r row
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s row %d: %w", path, len(rows), err)
		}
		rows = append(rows, r.batch())
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s holds no rows", path)
	}
	return rows, nil
}

// A lap is what one side did in one round.
type lap struct {
	Seconds float64   `json:"seconds"`
	Tokens  int       `json:"tokens"`
	Losses  []float64 `json:"losses"`
	RSS     float64   `json:"rss_mib"`
}

func (l lap) rate() float64 { return float64(l.Tokens) / l.Seconds }

func run(ctx context.Context, o options) error {
	rows, err := readRows(o.rows)
	if err != nil {
		return err
	}
	var theirs *process
	if o.python != "" {
		if theirs, err = startPeer(ctx, o); err != nil {
			return err
		}
		defer theirs.stop()
	}
	turn, done := make(chan chan lap), make(chan error, 1)
	go func() { done <- ours(ctx, o, rows, turn) }()
	var ratios, mine, peers []float64
	var a, b lap
	for round := range o.rounds + 1 {
		if round == 1 && o.profile != "" {
			stop, err := profile(o.profile)
			if err != nil {
				return err
			}
			defer stop()
		}
		result := make(chan lap)
		select {
		case turn <- result:
			a = <-result
		case err := <-done:
			return err
		}
		if theirs == nil {
			fmt.Printf("round %d: pipe %.1f tokens/s, last loss %.4f\n", round, a.rate(), a.Losses[len(a.Losses)-1])
			continue
		}
		if b, err = theirs.lap(o.steps); err != nil {
			return err
		}
		fmt.Printf("round %d: pipe %.1f tokens/s, peer %.1f; last losses %.4f and %.4f\n", round, a.rate(), b.rate(), a.Losses[len(a.Losses)-1], b.Losses[len(b.Losses)-1])
		if round > 0 {
			ratios, mine, peers = append(ratios, a.rate()/b.rate()), append(mine, a.rate()), append(peers, b.rate())
		}
	}
	if theirs == nil {
		return nil
	}
	fmt.Printf("%s, pipe %s, peer %s %s compiled=%t: pipe %.1f tokens/s, peer %.1f, median ratio %.2f (%.2f to %.2f); peer's peak %.0f MiB\n",
		o.adapter, o.precision, o.layout, o.dtype, o.compile, median(mine), median(peers), median(ratios), slices.Min(ratios), slices.Max(ratios), b.RSS)
	return nil
}

func profile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, pprof.StartCPUProfile(f)
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// ours trains, and pauses between rounds until it is asked for the next.
func ours(ctx context.Context, o options, rows []model.Batch, turn <-chan chan lap) error {
	b := cpu.New(o.threads)
	defer b.Close()
	c := adapter.Config{Rank: 16, Alpha: 32, DoRA: o.adapter == "dora", Targets: []string{"all-linear"}}
	s, err := train.OpenStudent(b, o.model, train.Tuning{New: &c, Seed: 1, Precision: tensor.Precision(o.precision)})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Printf("pipe: %d rows, %d threads\n", len(rows), o.threads)
	t := train.NewOptions()
	t.LR, t.WeightDecay, t.MaxGradNorm = o.lr, 0, 1
	t.Schedule, t.Warmup, t.MaxSteps, t.Recompute = "constant", 0, o.steps*(o.rounds+1), o.recompute
	task := &inOrder{Likelihood: train.Likelihood{Model: s.Decoder, Rows: rows}}
	result := <-turn
	start := time.Now()
	var l lap
	t.Report = func(step, total int, points []train.Point) {
		for _, p := range points {
			if p.Series == "loss" {
				l.Losses = append(l.Losses, p.Value)
			}
		}
		if step%o.steps != 0 {
			return
		}
		l.Seconds, l.Tokens = time.Since(start).Seconds(), task.tokens
		result <- l
		if l, task.tokens = (lap{}), 0; step < total {
			result = <-turn
			start = time.Now()
		}
	}
	_, err = train.Run(ctx, s.Decoder, task, t)
	return err
}

// inOrder takes the rows one after the other, as the peer does.
type inOrder struct {
	train.Likelihood
	at, tokens int
}

func (t *inOrder) Step(p *model.Pass, micro, window []int) ([]train.Mean, error) {
	i := []int{t.at % len(t.Rows)}
	t.at++
	t.tokens += len(t.Rows[i[0]].IDs)
	return t.Likelihood.Step(p, i, i)
}

// A process is the peer, which takes steps when told.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	dir string
}

func startPeer(ctx context.Context, o options) (*process, error) {
	dir, err := os.MkdirTemp("", "sft")
	if err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "peer.py")
	if err := os.WriteFile(script, peer, 0o600); err != nil {
		return nil, err
	}
	p := &process{dir: dir, cmd: exec.CommandContext(ctx, o.python, script, o.peerModel, o.rows, o.adapter, o.layout, o.dtype,
		strconv.FormatBool(o.compile), strconv.Itoa(o.threads), strconv.FormatFloat(o.lr, 'g', -1, 64))}
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
	fmt.Println("peer:", hello.Ready)
	return p, nil
}

func (p *process) lap(steps int) (l lap, err error) {
	if _, err := fmt.Fprintln(p.in, steps); err != nil {
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
