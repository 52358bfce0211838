package memory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pipe/model"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

func files(pairs ...string) fstest.MapFS {
	fs := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fs[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fs
}

func TestAvailable(t *testing.T) {
	const info = "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n"
	for name, c := range map[string]struct {
		root  fstest.MapFS
		want  int64
		from  string
		known bool
	}{
		"nothing":       {root: files()},
		"machine":       {files("proc/meminfo", info), 3000 << 10, "this machine has", true},
		"unlimited":     {files("proc/meminfo", info, "proc/self/cgroup", "0::/a\n", "sys/fs/cgroup/a/memory.max", "max\n", "sys/fs/cgroup/a/memory.current", "5\n"), 3000 << 10, "this machine has", true},
		"limit":         {files("proc/meminfo", info, "proc/self/cgroup", "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max", "90000\n", "sys/fs/cgroup/a/b/memory.current", "50000\n", "sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 3000\nactive_file 400\n"), 43400, "control group", true},
		"limit above":   {files("proc/meminfo", info, "proc/self/cgroup", "0::/a/b\n", "sys/fs/cgroup/a/memory.max", "90000\n", "sys/fs/cgroup/a/memory.current", "50000\n", "sys/fs/cgroup/a/b/memory.max", "max\n"), 40000, "control group", true},
		"container":     {files("proc/meminfo", info, "proc/self/cgroup", "0::/not/here\n", "sys/fs/cgroup/memory.max", "90000\n", "sys/fs/cgroup/memory.current", "100000\n"), 0, "control group", true},
		"version 1":     {files("proc/meminfo", info, "proc/self/cgroup", "3:cpu:/c\n2:memory:/c\n", "sys/fs/cgroup/memory/c/memory.limit_in_bytes", "70000\n", "sys/fs/cgroup/memory/c/memory.usage_in_bytes", "30000\n", "sys/fs/cgroup/memory/c/memory.stat", "total_inactive_file 500\n"), 40500, "control group", true},
		"version 1 max": {files("proc/meminfo", info, "proc/self/cgroup", "2:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes", "30000\n"), 3000 << 10, "this machine has", true},
	} {
		l, known := available(c.root)
		if known != c.known || known && (l.Bytes != c.want || !strings.Contains(l.From, c.from)) {
			t.Errorf("%s: %+v, %v; want %d bytes, %q", name, l, known, c.want, c.from)
		}
	}
}

// guard is a guard of a machine with so many bytes.
func guard(t *testing.T, bytes int64) *Guard {
	t.Helper()
	b := cpu.New(1)
	t.Cleanup(func() { b.Close() })
	g := NewGuard(b)
	g.available = func() (Limit, bool) { return Limit{bytes, "this machine has available"}, true }
	return g
}

// limited is a backend with memory of its own.
type limited struct {
	*cpu.Backend
	bytes int64
}

func (l limited) Limit() (int64, string, bool) { return l.bytes, "the device has free", l.bytes > 0 }

// TestLimited: a backend's own memory counts instead of the machine's.
func TestLimited(t *testing.T) {
	b := cpu.New(1)
	defer b.Close()
	g := NewGuard(limited{b, 1e6})
	take(t, g, tensor.ForWeights, 2e6)
	if err := g.Check(); err == nil || !strings.HasSuffix(err.Error(), "; the device has free 1 MB") {
		t.Errorf("2 MB of 1 MB: %v", err)
	}
	g = NewGuard(limited{b, 0})
	take(t, g, tensor.ForWeights, 2e6)
	if err := g.Check(); err != nil {
		t.Errorf("a device that does not tell: %v", err)
	}
}

// hosting is a plan that counts so many bytes of the machine's memory beside.
type hosting struct {
	tensor.Plan
	bytes int64
}

func (h hosting) Peak() tensor.Usage {
	u := h.Plan.Peak()
	u.Host = h.bytes
	return u
}

// TestGuardHost: what lies in the machine's memory counts there.
func TestGuardHost(t *testing.T) {
	g := guard(t, 10e6)
	g.machine = func() (Limit, bool) { return Limit{20e6, "this machine has available"}, true }
	take(t, g, tensor.ForWeights, 8e6)
	plan := g.Plan
	g.Plan = hosting{plan, 19e6}
	if err := g.Check(); err != nil {
		t.Error(err)
	}
	if got := g.Room(); got != 9523809 { // 10 MB less 5 % and what passed
		t.Errorf("room for %d bytes", got)
	}
	g.Plan = hosting{plan, 195e5}
	const want = "needs 8 MB of memory (weights 8 MB) and 20 MB of the machine's for the optimizer's state; this machine has available 20 MB: be brief"
	g.granted = 0
	if err := g.Check("be brief"); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if got := g.Room(); got != 1523809 {
		t.Errorf("room for %d bytes", got)
	}
	g.available = func() (Limit, bool) { return Limit{8e6, "the device has free"}, true }
	if err := g.Check(); err == nil || !strings.HasSuffix(err.Error(), " of the machine's for the optimizer's state; the device has free 8 MB") || g.Room() >= 0 {
		t.Errorf("error %v, room for %d bytes", err, g.Room())
	}
}

func take(t *testing.T, g *Guard, purpose string, bytes int) {
	t.Helper()
	tensor.For(g.Plan, purpose)
	x, err := g.Plan.Alloc(tensor.F32, bytes/4)
	if err != nil {
		t.Fatal(err)
	}
	g.Plan.Zero(x)
}

func TestGuard(t *testing.T) {
	g := guard(t, 10e6)
	take(t, g, tensor.ForWeights, 2e6)
	take(t, g, tensor.ForActivations, 6e6)
	if err := g.Check(); err != nil {
		t.Error(err)
	}
	g.available = func() (Limit, bool) { return Limit{2e6, "this machine has available"}, true } // 8 MB are in use
	if err := g.Check(); err != nil {
		t.Errorf("the same again: %v", err)
	}
	take(t, g, tensor.ForCache, 3e6)
	err := g.Check("lower batch_size", "buy memory")
	var large *TooLarge
	if !errors.As(err, &large) || large.Need.Bytes != 11e6 || large.Have.Bytes != 2e6 {
		t.Fatalf("error %v", err)
	}
	const want = "needs 11 MB of memory (activations 6 MB, key-value cache 3 MB, weights 2 MB), 3 MB more than before; this machine has available 2 MB: lower batch_size; or buy memory"
	if err.Error() != want {
		t.Errorf("got  %q\nwant %q", err, want)
	}
	g.available = func() (Limit, bool) { return Limit{}, false }
	if err := g.Check(); err != nil {
		t.Errorf("a system that does not tell: %v", err)
	}
	if NewGuard(modeltest.Reference{}) != nil || (*Guard)(nil).Check() != nil {
		t.Error("a backend that cannot plan is guarded")
	}
	if g := guard(t, 100); g.Check() != nil {
		t.Error("nothing does not fit")
	}
	g = guard(t, 1e6) // within the slack
	take(t, g, tensor.ForWeights, 99e4)
	if g.Check() == nil {
		t.Error("a plan without slack passes")
	}
}

// TestLargest: the largest passes need as much as all of them.
func TestLargest(t *testing.T) {
	c := model.Config{VocabSize: 300, Hidden: 64, Intermediate: 96, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16,
		MaxPositions: 4096, NormEps: 1e-5, InitRange: 0.02, Tied: true, Rope: model.Rope{Theta: 10000}}
	rng := model.NewStream(1, "lengths")
	var cs []model.Continuation
	var reqs []model.Request
	for i := range 300 {
		n := 20 + int(rng.At(uint64(i))%700)
		cs = append(cs, model.Continuation{Context: make([]int32, n), Target: make([]int32, 1+i%9)})
		reqs = append(reqs, model.Request{Prompt: make([]int32, n), MaxTokens: 1 + i%50})
	}
	peak := func(work func(d *model.Decoder) error) tensor.Usage {
		g := guard(t, 0)
		d, err := g.Decoder(c, model.Random(c, 1), "", tensor.F32)
		if err == nil {
			err = work(d)
		}
		if err != nil {
			t.Fatal(err)
		}
		return g.Plan.Peak()
	}
	ctx := context.Background()
	score := peak(func(d *model.Decoder) error { return Score(ctx, d, cs, model.ScoreOptions{}) })
	short := peak(func(d *model.Decoder) error { return Score(ctx, d, cs[:1], model.ScoreOptions{}) })
	if !(short.Bytes < score.Bytes/2) {
		t.Errorf("one continuation needs %d bytes, all of them %d", short.Bytes, score.Bytes)
	}
	o := model.GenerateOptions{CacheTokens: 4000}
	some := peak(func(d *model.Decoder) error { return Generate(ctx, d, reqs, o) })
	all := peak(func(d *model.Decoder) error {
		return d.Generate(ctx, slices.Clone(reqs), o, func(int, model.Result) error { return nil })
	})
	near(t, "generate", some, all)
}

// reading is a backend, or a plan of one, that reads several prompts in a pass.
type reading struct{ *cpu.Backend }

func (r reading) Plan() tensor.Plan { return readingPlan{r.Backend.Plan()} }

type readingPlan struct{ tensor.Plan }

func (readingPlan) PromptRows() int { return 2048 }

// TestReading: a plan has the largest pass of prompts, though others are longer with
// their answers, and as if prompts had nothing in common.
func TestReading(t *testing.T) {
	c := model.Config{VocabSize: 300, Hidden: 256, Intermediate: 1024, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16,
		MaxPositions: 4096, NormEps: 1e-5, InitRange: 0.02, Tied: true, Rope: model.Rope{Theta: 10000}}
	var reqs []model.Request
	for i := range 200 {
		r := model.Request{Prompt: make([]int32, 20), MaxTokens: 900}
		if i%4 == 3 {
			r = model.Request{Prompt: make([]int32, 400+i), MaxTokens: 4}
		}
		r.Prompt[0] = int32(i)
		reqs = append(reqs, r)
	}
	o := model.GenerateOptions{Batch: 16, CacheTokens: 20000}
	peak := func(work func(d *model.Decoder) error) tensor.Usage {
		b := cpu.New(1)
		defer b.Close()
		g := NewGuard(reading{b})
		d, err := g.Decoder(c, model.Random(c, 1), "", tensor.F32)
		if err == nil {
			err = work(d)
		}
		if err != nil {
			t.Fatal(err)
		}
		return g.Plan.Peak()
	}
	ctx := context.Background()
	all := peak(func(d *model.Decoder) error {
		rs := slices.Clone(reqs)
		for i := range rs { // what comes first, and how long answers are, changes nothing
			rs[i].Stop = func([]int32) bool { return true }
		}
		return d.Generate(ctx, rs, o, func(int, model.Result) error { return nil })
	})
	near(t, "generate", peak(func(d *model.Decoder) error { return Generate(ctx, d, reqs, o) }), all)
	for i := range reqs {
		reqs[i].Prompt[0] = 7
	}
	near(t, "generate with a common beginning", peak(func(d *model.Decoder) error { return Generate(ctx, d, reqs, o) }), all)
}

func near(t *testing.T, name string, some, all tensor.Usage) {
	t.Helper()
	r := float64(some.Bytes) / float64(all.Bytes)
	t.Logf("%s: %s, %s of all", name, Parts(some), Parts(all))
	if !(r > 0.97 && r < 1.03) {
		t.Errorf("%s: the largest need %d bytes, all of them %d", name, some.Bytes, all.Bytes)
	}
}
