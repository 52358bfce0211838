// Command dedup times the searches for near duplicates on vectors with planted
// pairs, and, given a Python with hnswlib, hnswlib on the same vectors in the
// same run:
//
//	go run ./bench/dedup -n 20000 -python python3
//
// Vectors are rows of 384 numbers around random centres; a tenth of them are
// copies of others with a cosine between 0.95 and 1, or the same. Recall is the
// share of all pairs at 0.95 or more (found by comparing every row with every
// other) that a search yields, and drops are the rows that are not the first of
// their group. A search that claims more than it finds fails the command: exact
// must find every pair and drop the same rows, and hnsw and auto must find
// -recall of the pairs; hnswlib's recall is shown. Everything is timed -rounds times, in turn; ratios are
// medians of the ratios within a round, and times are medians.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipe/stages/dedup/index"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

const (
	width     = 384
	threshold = 0.95
)

func main() {
	var o options
	flag.IntVar(&o.n, "n", 20000, "number of vectors")
	flag.IntVar(&o.clusters, "clusters", 2000, "number of centres")
	flag.Float64Var(&o.spread, "spread", 0.7, "length of the noise around a centre of length 1")
	flag.Float64Var(&o.least, "recall", 0.999, "share of the pairs that hnsw and auto must find")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each search is timed")
	flag.StringVar(&o.python, "python", "", "Python with numpy and hnswlib; empty: leave hnswlib out")
	flag.StringVar(&o.script, "script", "bench/dedup/hnswlib_join.py", "the script to run with it")
	flag.IntVar(&o.threads, "threads", runtime.GOMAXPROCS(0), "threads, of both")
	methods := flag.String("methods", "exact,hnsw", "searches to time, of exact, hnsw, auto, coder (which claims no recall)")
	flag.Parse()
	o.methods = strings.Split(*methods, ",")
	runtime.GOMAXPROCS(o.threads)
	err := o.check()
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	n, clusters, rounds, threads int
	spread, least                float64
	methods                      []string
	python, script               string
}

func (o options) check() error {
	if o.n < 1000 || o.clusters < 1 || o.rounds < 1 || o.threads < 1 {
		return fmt.Errorf("-n must be at least 1000, and -clusters, -rounds and -threads at least 1")
	}
	for _, m := range o.methods {
		if !slices.Contains(index.Names(), m) {
			return fmt.Errorf("-methods: there is no search %q; there are %q", m, index.Names())
		}
	}
	return nil
}

func run(o options) error {
	v := planted(o.n, o.clusters, o.spread)
	b := cpu.New(o.threads)
	defer b.Close()
	var truth map[uint64]bool
	names := []string{"tiles"}
	if o.python != "" {
		names = append(names, "hnswlib")
	}
	names = append(names, o.methods...)
	times := map[string][]float64{}
	recalls := map[string]float64{}
	var failed []string
	for round := range o.rounds {
		for _, m := range names {
			seconds, got, err := o.search(m, b, v)
			if err != nil {
				return fmt.Errorf("%s: %w", m, err)
			}
			if truth == nil {
				truth = got // tiles come first
			}
			times[m] = append(times[m], seconds)
			recalls[m] = share(truth, got)
			if bad := o.broken(m, truth, got); bad != "" && round == 0 {
				failed = append(failed, bad)
			}
		}
	}
	fmt.Printf("near pairs (cosine %v or more) among %d vectors of %d numbers, %d centres, spread %v; %d threads (%s); building included; medians of %d rounds\n",
		threshold, o.n, width, o.clusters, o.spread, o.threads, b.Name(), o.rounds)
	fmt.Printf("%d pairs, %d rows to drop; hnsw and hnswlib: M 16, efConstruction 64, ef 64 (hnsw widens it while all of it is near; hnswlib takes 32 neighbours)\n", len(truth), drops(truth, o.n))
	for _, m := range names {
		line := fmt.Sprintf("%-8s %8.2f s %8.0f vectors/s  pair recall %.4f  %.2f times tiles", m, median(times[m]), float64(o.n)/median(times[m]), recalls[m], ratio(times["tiles"], times[m]))
		if o.python != "" {
			line += fmt.Sprintf("  %.2f times hnswlib", ratio(times["hnswlib"], times[m]))
		}
		fmt.Println(line)
	}
	if err := graph(v); err != nil {
		return err
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return nil
}

// search returns the seconds and the pairs of one search.
func (o options) search(name string, b tensor.Backend, v index.Vectors) (float64, map[uint64]bool, error) {
	got := map[uint64]bool{}
	if name == "hnswlib" {
		seconds, err := o.hnswlib(v, got)
		return seconds, got, err
	}
	start := time.Now()
	var err error
	if name == "tiles" {
		err = index.Tiles(context.Background(), b, v, threshold, collect(v, got))
	} else {
		_, err = index.Find(context.Background(), name, b, v, threshold, collect(v, got))
	}
	return time.Since(start).Seconds(), got, err
}

// broken says what a search claims and does not keep.
func (o options) broken(name string, truth, got map[uint64]bool) string {
	r := share(truth, got)
	switch name {
	case "exact":
		if len(got) != len(truth) || !(r == 1) || drops(got, o.n) != drops(truth, o.n) {
			return fmt.Sprintf("exact found %d pairs (recall %.6f) and tiles %d", len(got), r, len(truth))
		}
	case "hnsw", "auto":
		if !(r >= o.least) {
			return fmt.Sprintf("%s has a pair recall of %.4f, and %v is claimed", name, r, o.least)
		}
	}
	return ""
}

// drops counts the rows that are not the first of their group.
func drops(pairs map[uint64]bool, n int) (count int) {
	g := index.NewGroups(n)
	for p := range pairs {
		g.Union(int(p>>32), int(uint32(p)))
	}
	for i := range n {
		if g.Root(i) != i {
			count++
		}
	}
	return count
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// ratio is the median of a's times over b's, round by round.
func ratio(a, b []float64) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return median(r)
}

// graph builds the graph alone, and searches it for ten neighbours of a sample.
func graph(v index.Vectors) error {
	start := time.Now()
	g, err := index.BuildGraph(context.Background(), v, index.NewGraphOptions())
	if err != nil {
		return err
	}
	built := time.Since(start).Seconds()
	w := g.NewWalker()
	const queries, k, ef = 300, 10, 64
	hits := 0
	var searched time.Duration
	for q := range queries {
		row := v.Row(q * (v.Len() / queries))
		start := time.Now()
		rows, _ := g.Neighbours(w, row, k, ef)
		searched += time.Since(start)
		worst := kth(v, row, k)
		for _, r := range rows {
			if index.Cosine(row, v.Row(r)) >= worst {
				hits++
			}
		}
	}
	fmt.Printf("graph: %.0f vectors/s built, %.0f queries/s on one thread at ef %d, recall@%d %.4f, %d bytes a vector\n",
		float64(v.Len())/built, queries/searched.Seconds(), ef, k, float64(hits)/(queries*k), g.Bytes()/v.Len())
	return nil
}

// kth is the k-th largest cosine of row with the rows of v.
func kth(v index.Vectors, row []float32, k int) float64 {
	best := make([]float64, 0, k+1)
	for j := range v.Len() {
		c := index.Cosine(row, v.Row(j))
		if len(best) == k && c <= best[k-1] {
			continue
		}
		i := len(best)
		best = append(best, c)
		for ; i > 0 && best[i-1] < c; i-- {
			best[i] = best[i-1]
		}
		best[i] = c
		best = best[:min(k, len(best))]
	}
	return best[k-1]
}

func collect(v index.Vectors, pairs map[uint64]bool) index.Yield {
	return func(a, b int) {
		if v.Cosine(a, b) >= threshold {
			pairs[key(a, b)] = true
		}
	}
}

func key(a, b int) uint64 { return uint64(min(a, b))<<32 | uint64(max(a, b)) }

func share(truth, got map[uint64]bool) float64 {
	n := 0
	for p := range truth {
		if got[p] {
			n++
		}
	}
	return float64(n) / float64(max(1, len(truth)))
}

func planted(n, clusters int, spread float64) index.Vectors {
	r := rand.New(rand.NewPCG(7, 7))
	near := func(dst, src []float32, noise float64) {
		f := float32(noise / math.Sqrt(width))
		for k := range dst {
			dst[k] = src[k] + f*float32(r.NormFloat64())
		}
		index.Vectors{Data: dst, Width: width}.Normalize()
	}
	centres := index.Vectors{Data: make([]float32, clusters*width), Width: width}
	for k := range centres.Data {
		centres.Data[k] = float32(r.NormFloat64())
	}
	centres.Normalize()
	v := index.Vectors{Data: make([]float32, n*width), Width: width}
	order := r.Perm(n)
	originals := n * 9 / 10
	for i, at := range order {
		switch {
		case i < originals:
			near(v.Row(at), centres.Row(r.IntN(clusters)), spread)
		case r.IntN(10) == 0:
			copy(v.Row(at), v.Row(order[r.IntN(originals)]))
		default:
			c := 0.95 + 0.05*r.Float64()
			near(v.Row(at), v.Row(order[r.IntN(originals)]), math.Sqrt(1/(c*c)-1))
		}
	}
	return v
}

// hnswlib runs the script on v, adds the pairs that it wrote to got and returns
// its seconds (build and search).
func (o options) hnswlib(v index.Vectors, got map[uint64]bool) (seconds float64, err error) {
	dir, err := os.MkdirTemp("", "dedup")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "vectors.f32"), filepath.Join(dir, "pairs.i32")
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v.Data); err != nil {
		return 0, err
	}
	if err := os.WriteFile(in, b.Bytes(), 0o666); err != nil {
		return 0, err
	}
	cmd := exec.Command(o.python, o.script, in, out, strconv.Itoa(width), strconv.Itoa(o.threads), fmt.Sprint(threshold))
	cmd.Stderr = os.Stderr
	line, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", o.script, err)
	}
	if seconds, err = strconv.ParseFloat(strings.TrimSpace(string(line)), 64); err != nil {
		return 0, err
	}
	pairs, err := os.ReadFile(out)
	if err != nil {
		return 0, err
	}
	for ; len(pairs) >= 8; pairs = pairs[8:] {
		x, y := binary.LittleEndian.Uint32(pairs), binary.LittleEndian.Uint32(pairs[4:])
		if v.Cosine(int(x), int(y)) >= threshold {
			got[key(int(x), int(y))] = true
		}
	}
	return seconds, nil
}
