package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"pipe/model/memory"
	"pipe/runtime/engine"
)

func runPlan(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "plan", args, func(fs *flag.FlagSet, o *options) {
		runFlags(fs, o)
		fs.BoolVar(&o.detailed, "detailed-exitcode", false, "exit 2 when there is work to do")
	})
	if err != nil {
		return usageCode(err)
	}
	p, code := plannedBy(ctx, t, o, pos[0], engine.Forecast)
	if p == nil {
		return code
	}
	sum := total(p.steps)
	if o.json {
		planLines(t, p.steps, sum)
	} else {
		planTable(t, p, sum)
	}
	if code == exitOK && o.detailed && sum.count[engine.PlanCached] < len(p.steps) {
		return exitUsage
	}
	return code
}

// A planSum is what the stages of a plan take together.
type planSum struct {
	count map[string]int             // stages by action
	take  map[string]engine.Estimate // by action
	blind map[string]int             // stages by action of which nothing is known
	saved engine.Savings
}

func total(steps []engine.Step) planSum {
	sum := planSum{map[string]int{}, map[string]engine.Estimate{}, map[string]int{}, engine.Savings{}}
	for _, s := range steps {
		sum.count[s.Action]++
		if v := s.Saved; v != nil {
			sum.saved.Seconds += v.Seconds
			sum.saved.Calls += v.Calls
			sum.saved.USD += v.USD
		}
		e := s.Estimate
		if e == nil {
			continue
		}
		if e.Seconds == 0 {
			sum.blind[s.Action]++
		}
		all := sum.take[s.Action]
		all.Basis = "the sum of the stages"
		all.Seconds += e.Seconds
		all.Calls += e.Calls
		all.Missing += e.Missing
		all.InputTokens += e.InputTokens
		all.OutputTokens += e.OutputTokens
		all.USD += e.USD
		all.Disk += e.Disk
		all.Memory = max(all.Memory, e.Memory) // stages that compute take turns
		all.HostMemory = max(all.HostMemory, e.HostMemory)
		sum.take[s.Action] = all
	}
	return sum
}

func planLines(t *app, steps []engine.Step, sum planSum) {
	lines := jsonLines(t.out)
	for _, s := range steps {
		line := map[string]any{"type": "plan", "stage": s.Addr, "action": s.Action, "reason": s.Reason}
		if s.Estimate != nil {
			line["estimate"] = s.Estimate
		}
		if s.Saved != nil {
			line["saved"] = s.Saved
		}
		lines.Encode(line)
	}
	last := map[string]any{"type": "totals", "saved": sum.saved}
	for _, action := range []string{engine.PlanRun, engine.PlanMaybe, engine.PlanCached} {
		last[action] = sum.count[action]
	}
	for action, e := range sum.take {
		last["estimate_"+action] = struct {
			Unknown int `json:"unknown_stages,omitempty"`
			engine.Estimate
		}{sum.blind[action], e}
	}
	lines.Encode(last)
}

func planTable(t *app, p *planned, sum planSum) {
	var g grid
	for _, s := range p.steps {
		g.add("  "+s.Action, s.Addr, s.Reason)
		if s.Estimate != nil {
			g.add("", "", p.estimateLine(s.Estimate))
		}
	}
	g.write(t.out)
	n := len(p.steps)
	fmt.Fprintf(t.out, "%s: %d up to date, %d to run", plural(n), sum.count[engine.PlanCached], sum.count[engine.PlanRun])
	if maybe := sum.count[engine.PlanMaybe]; maybe > 0 {
		fmt.Fprintf(t.out, ", %d maybe", maybe)
	}
	fmt.Fprintln(t.out)
	for _, part := range []struct{ action, label string }{{engine.PlanRun, "to run"}, {engine.PlanMaybe, "maybe"}} {
		e := sum.take[part.action]
		if text := join(figures(&e), lacking(&e)); text != "" {
			if k := sum.blind[part.action]; k > 0 {
				text += fmt.Sprintf(", and %s of which no run tells", plural(k))
			}
			fmt.Fprintf(t.out, "%s: %s\n", part.label, text)
		}
	}
	if sum.count[engine.PlanCached] > 0 {
		text := duration(seconds(sum.saved.Seconds))
		if sum.saved.Calls > 0 {
			text += ", " + counted(sum.saved.Calls, "teacher call")
		}
		fmt.Fprintf(t.out, "saved by cache: %s%s\n", text, dollars(", ", sum.saved.USD))
	}
}

// estimateLine says what a stage will take, and how that is known.
func (p *planned) estimateLine(e *engine.Estimate) string {
	text := figures(e)
	if e.Rows > 0 {
		text = join(text, fmt.Sprintf("%d of %s answered by journals", e.Recorded, counted(e.Rows, "row")))
	}
	if p.limited && e.Memory > p.limit.Bytes {
		text += fmt.Sprintf(" (%s only %s)", p.limit.From, memory.Size(p.limit.Bytes))
	}
	switch {
	case e.Fault != "":
		text = join(text, "it fails when it runs: "+clean(e.Fault))
	case e.Missing > 0:
		text = join(text, lacking(e)+": it fails when it runs")
	}
	if text == "" {
		return "(" + e.Basis + ")"
	}
	return text + " (" + e.Basis + ")"
}

// lacking says for how many rows nobody answers; "" for none.
func lacking(e *engine.Estimate) string {
	if e.Missing == 0 {
		return ""
	}
	return "the journal lacks answers to " + counted(e.Missing, "row") + ", and nobody is asked"
}

// join lists what two texts say; either may be empty.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// figures lists what is known of an estimate.
func figures(e *engine.Estimate) string {
	var parts []string
	if e.Seconds > 0 {
		parts = append(parts, "about "+duration(seconds(e.Seconds)))
	}
	if e.Calls > 0 {
		parts = append(parts, fmt.Sprintf("%s (%d tokens in, %d out%s)", counted(e.Calls, "teacher call"), e.InputTokens, e.OutputTokens, dollars(", ", e.USD)))
	}
	if e.Memory > 0 {
		text := memory.Size(e.Memory) + " of memory"
		if e.HostMemory > 0 {
			text += " and " + memory.Size(e.HostMemory) + " of the machine's"
		}
		parts = append(parts, text)
	}
	if e.Disk > 0 {
		parts = append(parts, size(e.Disk)+" on disk")
	}
	return strings.Join(parts, ", ")
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// dollars prints an amount behind a separator; none is empty.
func dollars(before string, usd float64) string {
	switch {
	case usd <= 0:
		return ""
	case usd < 0.01:
		return before + "under $0.01"
	}
	return fmt.Sprintf("%s$%.2f", before, usd)
}
