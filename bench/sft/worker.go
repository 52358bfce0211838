package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor/cpu"
	"pipe/train"
)

// A worker trains with pipe.
type worker struct {
	model, rows, adapter, precision string
	quantize, optimizer, profile    string
	recompute                       bool
	threads                         int
	lr                              float64
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

// serve trains, and pauses until it is told how many steps to take.
func (w *worker) serve(in io.Reader, out io.Writer) error {
	rows, err := readRows(w.rows)
	if err != nil {
		return err
	}
	b := cpu.New(w.threads)
	defer b.Close()
	c := adapter.Config{Rank: 16, Alpha: 32, DoRA: w.adapter == "dora", Targets: []string{"all-linear"}}
	s, err := train.OpenStudent(b, w.model, train.Tuning{New: &c, Seed: 1, Precision: train.Precision(w.precision), Quantize: w.quantize})
	if err != nil {
		return err
	}
	defer s.Close()
	enc, lines := json.NewEncoder(out), bufio.NewScanner(in)
	if err := enc.Encode(hello{fmt.Sprintf("%s, %d rows, %d threads", b.Name(), len(rows), w.threads)}); err != nil {
		return err
	}
	t := train.NewOptions()
	t.LR, t.WeightDecay, t.MaxGradNorm, t.EightBit = w.lr, 0, 1, w.optimizer == train.OptimizerAdamW8bit
	t.Schedule, t.Warmup, t.MaxSteps, t.Recompute = "constant", 0, math.MaxInt32, w.recompute
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	task := &inOrder{Likelihood: train.Likelihood{Model: s.Decoder, Rows: rows}}
	left, laps, start := 0, 0, time.Now()
	var l lap
	// next waits for a number of steps, after a report of those that were taken.
	next := func() {
		if laps > 0 {
			l.Seconds, l.Tokens, l.RSS = time.Since(start).Seconds(), task.tokens, peak()
			enc.Encode(l)
		}
		if laps == 1 && w.profile != "" { // the first round warms up
			if f, err := os.Create(w.profile); err == nil {
				pprof.StartCPUProfile(f)
			}
		}
		if !lines.Scan() {
			pprof.StopCPUProfile()
			cancel()
			return
		}
		fmt.Sscan(lines.Text(), &left)
		l, task.tokens, start = lap{}, 0, time.Now()
		laps++
	}
	next()
	t.Report = func(_, _ int, points []train.Point) {
		for _, p := range points {
			if p.Series == "loss" {
				l.Losses = append(l.Losses, p.Value)
			}
		}
		if left--; left == 0 {
			next()
		}
	}
	if _, err = train.Run(ctx, s.Decoder, task, t); errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// peak is the most memory that the process has had, in MiB; 0 where the system
// does not tell.
func peak() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0.0
	fmt.Sscan(after, &kib)
	return kib / 1024
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
