// Package report writes what is known about a run as one HTML file that needs
// nothing else: no network, no script, no font. It reads the store and decides
// nothing.
//
// Everything in it that comes from a dataset, a model or a teacher is text, and
// escaped; control characters and those that turn the direction of writing are
// replaced. The same run and store make the same bytes.
package report

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

//go:embed page.html
var pageHTML string

//go:embed style.css
var styleCSS string

var page = template.Must(template.New("page").Parse(pageHTML))

// A view is what the page shows.
type view struct {
	Style    template.CSS
	Policy   string // the content security policy
	Title    string
	About    string
	Run      string
	Started  string
	Took     string
	Verdict  verdict
	Graph    *graph
	Timeline timeline
	Stages   stageTable
	Metrics  metricTables
	Grids    []heatMap
	Sweeps   []sweep
	Curves   curves
	Findings []finding
	Samples  []sample
	Unshown  int // stages with samples that are not shown
	History  historyView
	Origin   origin
}

// A reader is one report being put together.
type reader struct {
	store   *artifact.Store
	prog    *lang.Program // may have changed since the run, and may be nil
	run     *engine.RunFile
	index   map[string]int              // of the run's stages, by address
	records map[string]*artifact.Record // by address; read once
	objects map[artifact.Digest]artifact.Object
	makers  map[artifact.Digest][]string // references to an output, in the order of the run

	otherwise []engine.StageDiff // evals that have other settings than in the baseline run
}

// Write writes the report of a run of prog. Parts of the store that are lost or
// damaged are left out of it, with a word why.
func Write(w io.Writer, s *artifact.Store, prog *lang.Program, run *engine.RunFile) error {
	r := &reader{
		store: s, prog: prog, run: run, index: map[string]int{}, records: map[string]*artifact.Record{},
		objects: map[artifact.Digest]artifact.Object{}, makers: map[artifact.Digest][]string{},
	}
	for i, st := range run.Stages {
		r.index[st.Addr] = i
		for _, name := range sortedKeys(st.Outputs) {
			o := st.Outputs[name]
			r.objects[o.Digest] = o
			r.makers[o.Digest] = append(r.makers[o.Digest], st.Addr)
		}
	}
	v, err := r.view()
	if err != nil {
		return err
	}
	return page.Execute(w, v)
}

func (r *reader) view() (*view, error) {
	sum := sha256.Sum256([]byte(styleCSS))
	v := &view{
		Style:  template.CSS(styleCSS),
		Policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
		Title:  clean(r.run.Pipeline), Run: clean(r.run.Run),
		Started: r.run.Started.UTC().Format("2 January 2006, 15:04:05 UTC"), Took: seconds(r.run.Seconds),
	}
	if r.prog != nil {
		v.About = clean(r.prog.Description)
	}
	base, results, note := r.baseline()
	v.Verdict = r.verdict(base, results, note)
	v.Graph = r.graph()
	v.Timeline = r.timeline()
	v.Stages = r.stageTable()
	v.Metrics = r.metricTables(base, results)
	v.Grids = r.heatMaps()
	v.Sweeps = r.sweeps()
	v.Curves = r.curves()
	v.Findings = r.findings()
	v.Samples, v.Unshown = r.samples()
	v.History = r.history()
	v.Origin = r.origin()
	return v, nil
}

// record returns the record of a stage, nil when it has none.
func (r *reader) record(st *engine.StageResult) *artifact.Record {
	if rec, ok := r.records[st.Addr]; ok {
		return rec
	}
	var rec *artifact.Record
	if st.Key != (artifact.Key{}) {
		rec, _ = r.store.Record(st.Key) // a lost one is shown as unknown
	}
	r.records[st.Addr] = rec
	return rec
}

// preimage is the part of a record's pre-image that the report shows.
type preimage struct {
	Version int                        `json:"version"`
	Spec    json.RawMessage            `json:"spec"`
	Inputs  map[string]artifact.Digest `json:"inputs"`
	Seed    uint64                     `json:"seed"`
	Backend string                     `json:"backend"`
}

func (r *reader) preimage(st *engine.StageResult) (p preimage) {
	if rec := r.record(st); rec != nil {
		json.Unmarshal(rec.Preimage, &p) // of another version of pipe: as far as it goes
	}
	return p
}

// metricsOf returns the metrics of a stage, if it has any that can be read.
func (r *reader) metricsOf(st *engine.StageResult) (m artifact.MetricsFile, ok bool) {
	for _, name := range sortedKeys(st.Outputs) {
		if o := st.Outputs[name]; o.Type == artifact.Metrics {
			a, err := r.store.Open(o.Digest)
			return m, err == nil && artifact.ReadJSON(a, artifact.MetricsName, &m) == nil
		}
	}
	return m, false
}

// baseline compares what the run measured with the pinned one. It is empty when
// there is none, and when the run is the baseline itself.
func (r *reader) baseline() (run string, results []compare.Result, note string) {
	if r.prog == nil {
		return "", nil, ""
	}
	b, err := engine.ReadBaseline(r.store, r.prog)
	switch {
	case err != nil:
		return "", nil, err.Error()
	case b == nil:
		return "", nil, "No baseline is pinned, so there is nothing to compare the evaluations with but the base model."
	case b.Run == r.run.Run:
		return "", nil, "This run is the baseline."
	}
	old, err := engine.ReadRun(r.store, b.Run)
	if err == nil {
		was := old.Outputs()
		for _, addr := range engine.Unmeasured(r.prog, &r.run.Result) {
			delete(was, addr)
		}
		results, err = compare.Runs(r.store, was, r.run.Outputs(), true)
		r.otherwise = engine.MeasuredOtherwise(r.store, r.prog, old, r.run)
	}
	if err != nil {
		return "", nil, "The run could not be compared with the baseline: " + err.Error()
	}
	return b.Run, results, ""
}

// lost counts the stages whose results the store no longer has.
func (r *reader) lost() (n int) {
	for _, st := range r.run.Stages {
		for _, o := range st.Outputs {
			if !r.store.Has(o.Digest) {
				n++
				break
			}
		}
	}
	return n
}

// night returns what the run came to as a night that was compared with another
// run than base; false when it was none.
func (r *reader) night(base string) (night compare.Night, ok bool) {
	if r.prog == nil {
		return night, false
	}
	nights, _, _ := compare.OpenHistory(r.store, engine.PipelineName(r.store, r.prog)).Nights() // the section of nights says what is wrong with it
	for _, n := range nights {
		if n.Run == r.run.Run && n.Baseline != "" && n.Baseline != base {
			night, ok = n, true
		}
	}
	return night, ok
}

// exitWorse is the exit code of a night on which something got worse.
const exitWorse = 3

// A verdict is what the run came to, first of all.
type verdict struct {
	State, Symbol, Head string
	Lines               []string
	Gates, Rest         []gateView // those that failed first; the rest is to be asked for
	RestHead            string
	Note                string
}

// mostGates are listed at once: each member of a sweep has its own.
const mostGates = 12

type gateView struct {
	State, Symbol              string
	Name, Stage, Text, Details string
}

func (r *reader) verdict(base string, rs []compare.Result, note string) verdict {
	v := verdict{State: "good", Symbol: "✓", Head: "Passed", Note: clean(note)}
	count := map[engine.State]int{}
	for _, st := range r.run.Stages {
		count[st.State]++
	}
	failed := 0
	for _, g := range r.run.Gates {
		x := gateView{State: "good", Symbol: "✓", Name: clean(g.Name), Stage: clean(g.Stage), Text: "passed", Details: clean(g.Values)}
		if !g.Pass {
			failed++
			x.State, x.Symbol, x.Text = "bad", "✗", "failed: "+clean(g.Message)
		}
		if g.Baseline != "" {
			x.Details += "; baseline is run " + clean(g.Baseline)
		}
		if g.Note != "" {
			x.Details += "; " + clean(g.Note)
		}
		v.Gates = append(v.Gates, x)
	}
	slices.SortStableFunc(v.Gates, func(a, b gateView) int { return cmp.Compare(a.State, b.State) }) // "bad" before "good"
	if n := len(v.Gates) - mostGates; n > 1 {
		v.Gates, v.Rest = v.Gates[:mostGates], v.Gates[mostGates:]
		v.RestHead = fmt.Sprintf("%d more gates, of which %d failed", n, max(0, failed-mostGates))
	}
	worse := compare.Count(rs, compare.Worse)
	switch {
	case count[engine.Failed] > 0:
		v.State, v.Symbol, v.Head = "bad", "✗", counted(count[engine.Failed], "stage")+" failed"
	case count[engine.Cancelled] > 0:
		v.State, v.Symbol, v.Head = "warn", "■", "Stopped before the end"
	case failed > 0:
		v.State, v.Symbol, v.Head = "bad", "✗", fmt.Sprintf("%d of %s failed", failed, counted(len(r.run.Gates), "gate"))
	case worse > 0:
		v.State, v.Symbol, v.Head = "bad", "✗", counted(worse, "metric")+" got worse"
	case len(r.run.Gates) > 0:
		v.Head = "Passed " + counted(len(r.run.Gates), "gate")
	default:
		v.Head = "Done; there are no gates"
	}
	v.Lines = append(v.Lines, fmt.Sprintf("%s ran, %d were up to date, %d failed, %d did not run.",
		counted(count[engine.Done], "stage"), count[engine.Cached], count[engine.Failed], count[engine.Skipped]+count[engine.Cancelled]))
	v.Lines = append(v.Lines, r.failures()...)
	if base != "" {
		text := "nothing was measured before the run ended"
		if len(rs) > 0 || len(engine.Unmeasured(r.prog, &r.run.Result)) == 0 {
			_, text = compare.Regressed(rs, false)
		}
		v.Lines = append(v.Lines, "Against the baseline, run "+clean(base)+": "+clean(text)+".")
	}
	for _, d := range r.otherwise {
		v.Lines = append(v.Lines, clean(d.Stage)+" was measured otherwise in the baseline: "+clip(strings.Join(d.Changes, ", "), 300)+".")
	}
	if n, ok := r.night(base); ok {
		v.Lines = append(v.Lines, "As a night, against the baseline of then, run "+clean(n.Baseline)+": "+clean(n.Verdict)+".")
		if regressed := n.Exit == exitWorse; regressed && base == "" && v.State == "good" {
			v.State, v.Symbol, v.Head = "bad", "✗", "Something got worse that night"
		}
	}
	if n := r.lost(); n > 0 {
		v.Lines = append(v.Lines, "The store no longer has the results of "+counted(n, "stage")+", as after pipe gc: what they measured and made is not shown.")
	}
	if t := r.againstBase(); t != "" {
		v.Lines = append(v.Lines, t)
	}
	return v
}

// failures names the stages that failed, with the beginning of why: the first few.
func (r *reader) failures() (lines []string) {
	const most = 5
	n := 0
	for _, st := range r.run.Stages {
		if st.State != engine.Failed {
			continue
		}
		if n++; n <= most {
			first, _, _ := strings.Cut(strings.TrimPrefix(st.Error, st.Addr+": "), "\n")
			lines = append(lines, clean(st.Addr)+" failed: "+clip(first, 300))
		}
	}
	if n > most {
		lines = append(lines, fmt.Sprintf("… and %d more", n-most))
	}
	return lines
}

// againstBase counts what the evals found better and worse than the base model.
func (r *reader) againstBase() string {
	var better, worse []string
	unclear := 0
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		if _, ok := st.Outputs["items"]; !ok {
			continue
		}
		m, _ := r.metricsOf(st)
		for _, name := range sortedKeys(m.Metrics) {
			c, _ := compare.Change(m, name)
			switch compare.Verdict(c) {
			case "better":
				better = append(better, clean(name))
			case "worse":
				worse = append(worse, clean(name))
			case "unclear":
				unclear++
			}
		}
	}
	if len(better)+len(worse)+unclear == 0 {
		return ""
	}
	return fmt.Sprintf("Against the base model: better %s; worse %s; unclear %d.", named(better), named(worse), unclear)
}

// named is a number with the first few names of what it counts.
func named(names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	const most = 6
	switch n := len(names); {
	case n == 0:
		return "0"
	case n > most:
		return fmt.Sprintf("%d (%s and %d more)", n, strings.Join(names[:most], ", "), n-most)
	default:
		return fmt.Sprintf("%d (%s)", n, strings.Join(names, ", "))
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
