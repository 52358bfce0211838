package dag

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var errBroken = errors.New("broken")

// diamond is a → b, c → d, and e apart.
var diamond = map[string][]string{"b": {"a"}, "c": {"a"}, "d": {"b", "c"}}

func needsOf(m map[string][]string) func(string) []string {
	return func(n string) []string { return m[n] }
}

func states(rs []Result) string {
	var out []string
	for _, r := range rs {
		s := r.Node + ":" + r.State.String()
		if r.Blame != "" {
			s += "<" + r.Blame
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestWalkFailures(t *testing.T) {
	nodes := []string{"a", "b", "c", "d", "e"}
	for _, tc := range []struct {
		name  string
		fails string
		opts  Options
		want  string
	}{
		{"all done", "", Options{Parallelism: 2}, "a:done b:done c:done d:done e:done"},
		{"zero parallelism is one", "", Options{}, "a:done b:done c:done d:done e:done"},
		{"a failure stops the walk", "b", Options{Parallelism: 1}, "a:done b:failed c:skipped d:skipped<b e:skipped"},
		{"keep going runs what is independent", "b", Options{Parallelism: 1, KeepGoing: true}, "a:done b:failed c:done d:skipped<b e:done"},
		{"the root fails", "a", Options{Parallelism: 1, KeepGoing: true}, "a:failed b:skipped<a c:skipped<a d:skipped<a e:done"},
		{"the blame is the failure listed first", "bc", Options{Parallelism: 2, KeepGoing: true}, "a:done b:failed c:failed d:skipped<b e:done"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs, err := Walk(t.Context(), nodes, needsOf(diamond), tc.opts, func(_ context.Context, n string) error {
				if strings.Contains(tc.fails, n) {
					return errBroken
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := states(rs); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			for _, r := range rs {
				if (r.State == Failed) != errors.Is(r.Err, errBroken) {
					t.Errorf("%s: state %s with error %v", r.Node, r.State, r.Err)
				}
			}
		})
	}
}

// A failure does not take the context away from what is running.
func TestWalkFailureLetsRunningFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs, err := Walk(t.Context(), []string{"slow", "bad", "never"}, needsOf(nil), Options{Parallelism: 2},
			func(ctx context.Context, n string) error {
				if n == "bad" {
					return errBroken
				}
				time.Sleep(time.Hour)
				return ctx.Err()
			})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := states(rs), "slow:done bad:failed never:skipped"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestWalkCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var started []string
	rs, err := Walk(ctx, []string{"a", "b", "c", "d", "e"}, needsOf(diamond), Options{Parallelism: 1, KeepGoing: true},
		func(ctx context.Context, n string) error {
			mu.Lock()
			started = append(started, n)
			mu.Unlock()
			if n == "b" {
				cancel()
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := states(rs), "a:done b:cancelled c:skipped d:skipped e:skipped"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := strings.Join(started, ""); got != "ab" {
		t.Errorf("started %q after the cancellation, want ab", got)
	}
}

func TestWalkCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rs, err := Walk(ctx, []string{"a"}, needsOf(nil), Options{}, func(context.Context, string) error {
		t.Error("ran after the cancellation")
		return nil
	})
	if err != nil || states(rs) != "a:skipped" {
		t.Errorf("got %s, %v", states(rs), err)
	}
}

func TestWalkMalformed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		nodes string
		needs map[string][]string
		want  error
		text  string
	}{
		{"cycle", "xabc", map[string][]string{"x": {"c"}, "a": {"b"}, "b": {"c"}, "c": {"a"}}, ErrCycle, "c → a → b → c"},
		{"loop", "a", map[string][]string{"a": {"a"}}, ErrCycle, "a → a"},
		{"unknown", "a", map[string][]string{"a": {"z"}}, ErrUnknown, "a needs z"},
		{"duplicate", "aba", nil, ErrDuplicate, "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs, err := Walk(t.Context(), strings.Split(tc.nodes, ""), needsOf(tc.needs), Options{}, func(context.Context, string) error {
				t.Error("something ran")
				return nil
			})
			if !errors.Is(err, tc.want) || !strings.HasSuffix(err.Error(), tc.text) || rs != nil {
				t.Errorf("got %v, %v; want %v ending in %q", rs, err, tc.want, tc.text)
			}
		})
	}
}

// In any graph every edge is respected, no more than Parallelism nodes run at
// once, and the report does not depend on timing.
func TestWalkProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(0, 25).Draw(rt, "nodes")
		nodes := make([]string, n)
		needs := map[string][]string{}
		failing := map[string]bool{}
		for i := range nodes {
			nodes[i] = fmt.Sprint("n", i)
			for j := range i {
				if rapid.IntRange(0, 5).Draw(rt, "edge") == 0 {
					needs[nodes[i]] = append(needs[nodes[i]], nodes[j])
				}
			}
			failing[nodes[i]] = rapid.IntRange(0, 7).Draw(rt, "fails") == 0
		}
		shuffled := rapid.Permutation(nodes).Draw(rt, "order")
		opts := Options{Parallelism: rapid.IntRange(1, 4).Draw(rt, "parallelism"), KeepGoing: true}
		want := ""
		for range 2 {
			var mu sync.Mutex
			done := map[string]bool{}
			running, most := 0, 0
			rs, err := Walk(context.Background(), shuffled, needsOf(needs), opts, func(_ context.Context, node string) error {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				defer mu.Unlock()
				for _, need := range needs[node] {
					if !done[need] {
						rt.Errorf("%s started before %s was done", node, need)
					}
				}
				running--
				if failing[node] {
					return errBroken
				}
				done[node] = true
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			if most > opts.Parallelism {
				rt.Errorf("%d nodes ran at once, at most %d may", most, opts.Parallelism)
			}
			got := states(rs)
			if want != "" && got != want {
				rt.Errorf("two walks report differently:\n%s\n%s", got, want)
			}
			want = got
			checkStates(rt, rs, needs, failing)
		}
	})
}

func checkStates(rt *rapid.T, rs []Result, needs map[string][]string, failing map[string]bool) {
	state := map[string]State{}
	for _, r := range rs {
		state[r.Node] = r.State
	}
	for _, r := range rs {
		stopped := slices.ContainsFunc(needs[r.Node], func(n string) bool { return state[n] != Done })
		want := Done
		if stopped {
			want = Skipped
		} else if failing[r.Node] {
			want = Failed
		}
		if r.State != want || (want == Skipped) != (r.Blame != "") {
			rt.Errorf("%s is %s blaming %q, want %s", r.Node, r.State, r.Blame, want)
		}
	}
}

// Independent nodes do run at the same time: each waits for the other.
func TestWalkIsParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var meet sync.WaitGroup
		meet.Add(3)
		rs, err := Walk(t.Context(), []string{"a", "b", "c"}, needsOf(nil), Options{Parallelism: 3}, func(context.Context, string) error {
			meet.Done()
			meet.Wait()
			return nil
		})
		if err != nil || states(rs) != "a:done b:done c:done" {
			t.Errorf("got %s, %v", states(rs), err)
		}
	})
}
