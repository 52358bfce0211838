package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

func sha(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }

// An element is what the parser found, with the text directly and further in it.
type element struct {
	name  string
	attrs map[string]string
	text  string
}

// parse reads the page as a tree and checks that it is one.
func parse(t *testing.T, b []byte) []element {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var all []element
	var open []int
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("not well formed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			e := element{name: tok.Name.Local, attrs: map[string]string{}}
			for _, a := range tok.Attr {
				e.attrs[a.Name.Local] = a.Value
			}
			open = append(open, len(all))
			all = append(all, e)
		case xml.EndElement:
			if len(open) == 0 || all[open[len(open)-1]].name != tok.Name.Local {
				t.Fatalf("</%s> ends nothing", tok.Name.Local)
			}
			open = open[:len(open)-1]
		case xml.CharData:
			for _, i := range open {
				all[i].text += string(tok)
			}
		case xml.Comment:
			t.Errorf("a comment: %s", tok)
		}
	}
	if len(open) != 0 {
		t.Fatalf("%s is not closed", all[open[len(open)-1]].name)
	}
	return all
}

// elements that the page is made of.
var elements = strings.Fields(`html head meta title style body a header div h1 h2 h3 h4 p span fieldset legend label input nav ul li main section strong
	code figure figcaption svg defs marker path rect text line circle table caption thead tbody tr th td details summary dl dt dd small pre br footer`)

func TestPageIsSoundAndLoadsNothing(t *testing.T) {
	l := everything(t)
	l.baseline()
	b := l.html()
	all := parse(t, b)
	ids := map[string]bool{}
	for _, e := range all {
		if !slices.Contains(elements, e.name) {
			t.Errorf("an element %s", e.name)
		}
		if id := e.attrs["id"]; id != "" {
			if ids[id] {
				t.Errorf("two elements are #%s", id)
			}
			ids[id] = true
		}
	}
	links := 0
	for _, e := range all {
		for name, v := range e.attrs {
			switch {
			case name == "style" || name == "src" || name == "srcset" || strings.HasPrefix(name, "on"):
				t.Errorf("%s has %s=%q", e.name, name, v)
			case name == "href":
				links++
				if id, ok := strings.CutPrefix(v, "#"); !ok || !ids[id] {
					t.Errorf("%s leads to %q", e.name, v)
				}
			}
		}
	}
	if links < 20 {
		t.Errorf("%d links", links)
	}
	for _, id := range strings.Fields("main verdict graph timeline stages metrics needle sweeps curves findings samples history origin theme-auto theme-light theme-dark scale-log") {
		if !ids[id] {
			t.Errorf("nothing is #%s", id)
		}
	}
	if i := bytes.Index(b, []byte("url(")); i < 0 || bytes.Count(b, []byte("url(")) != bytes.Count(b, []byte("url(#arrow)")) {
		t.Error("a url() that is not the arrow's")
	}
	if bytes.Contains([]byte(styleCSS), []byte("@import")) || strings.Contains(styleCSS, "://") {
		t.Error("the style loads something")
	}
	policy := ""
	for _, e := range all {
		if e.name == "meta" && e.attrs["http-equiv"] == "Content-Security-Policy" {
			policy = e.attrs["content"]
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
}

// Text of datasets, teachers and models stays text: it makes no element, no
// attribute, and no character that a reader could be deceived by.
func TestHostileTextStaysText(t *testing.T) {
	l := everything(t)
	l.baseline()
	b := l.html()
	seen := 0
	for _, e := range parse(t, b) {
		if strings.Contains(e.text, "<script>alert(1)</script>") {
			seen++
		}
		for name, v := range e.attrs {
			if strings.Contains(name, "onerror") || name == "href" && strings.Contains(v, "evil") {
				t.Errorf("%s has %s=%q", e.name, name, v)
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d elements hold the text", seen)
	}
	for _, bad := range []string{"<script", "<img", "\x1b", "\u202e", "\x00", "\xff", "ZgotmplZ"} {
		if i := bytes.Index(b, []byte(bad)); i >= 0 {
			t.Errorf("%q is in the page: …%q…", bad, b[max(0, i-80):min(len(b), i+40)])
		}
	}
}

func TestPageSaysWhatHappened(t *testing.T) {
	l := everything(t)
	l.baseline()
	text := map[string]string{}
	for _, e := range parse(t, l.html()) {
		if e.name == "section" {
			text[e.attrs["id"]] = strings.Join(strings.Fields(e.text), " ")
		}
	}
	for id, wants := range map[string][]string{
		"verdict":  {"✗ 1 stage failed", "export.a failed: failed <script>", "8 stages ran, 1 were up to date, 1 failed, 2 did not run", "qa.acc 0.5 < 0.7", "Against the baseline, run 20261126-030000-bbbbbb: regression: 1 worse", "Against the base model: better"},
		"graph":    {"dedup.clean", "✗ failed", "– not run", "= cached", "■ stopped"},
		"timeline": {"pack.train", "✓ 4.0 s", "= saved 12.0 s", "1 m 15 s"},
		"stages":   {"it needs export.a, which failed", "stopped; the next run goes on from what it saved", "1, 2 drops", "up to date", "1 more", "Teachers: 3 new answers, 1 200 tokens in and 340 out, 0.0012 USD; 40 from journals."},
		"metrics":  {"than base", "against the baseline", "worse", "−0.5500 [", "< 0.001"},
		"needle":   {"base 0.00", "0.50", "–"},
		"sweeps":   {"lrrankqa.acc", "★ 0.7000 ± 0.0700", "more is better"},
		"curves":   {"3.0000 at step 1", "300 points", "1 more series"},
		"findings": {"2 drops, 1 row kept", "beside kept", "(not in the store)", "exact: 1"},
		"samples":  {"64 tokens of 2 documents; 44 are learned", "input = data.docs", "✓ right", "✗ wrong", "choice ✓"},
		"history":  {"2026-11-26 03:00", "0.0000 to 1.0000"},
		"origin":   {"20261127-030000-aaaaaa", "cpu:test", "sha256:", "night.hcl"},
	} {
		for _, w := range wants {
			if !strings.Contains(text[id], w) {
				t.Errorf("#%s does not say %q: %s", id, w, clip(text[id], 1500))
			}
		}
	}
	if s := string(l.html()); strings.Contains(s, l.run.Dir) || strings.Contains(s, l.store.Dir()) {
		t.Error("the report names directories of this machine")
	}
	if strings.Contains(text["stages"], "context canceled") {
		t.Error("a stage that was stopped is said to have a fault")
	}
}

// Each member of a sweep has its gates: those that failed stand first, and the
// rest is folded.
func TestManyGatesAreFolded(t *testing.T) {
	l := newLab(t)
	for i := range 40 {
		l.run.Gates = append(l.run.Gates, engine.GateResult{Stage: fmt.Sprint("eval.e", i), Name: "g", Pass: i != 37})
	}
	page := string(l.html())
	shown, folded, ok := strings.Cut(page, "<summary>28 more gates, of which 0 failed</summary>")
	if !ok || strings.Count(shown, "gate <strong>") != 12 || strings.Count(folded, "gate <strong>") != 28 {
		t.Errorf("%d gates shown, %d folded", strings.Count(shown, "gate <strong>"), strings.Count(folded, "gate <strong>"))
	}
	if first, _, _ := strings.Cut(shown[strings.Index(shown, "gate <strong>"):], "</li>"); !strings.Contains(first, "eval.e37") {
		t.Errorf("the first gate is %s", first)
	}
}

// A run that was stopped before its evals says nothing about the baseline, and
// one that was stopped among them only about those that it came to.
func TestStoppedRunsAreComparedAsFarAsTheyCame(t *testing.T) {
	for _, came := range []bool{false, true} {
		l := everything(t)
		l.baseline()
		was := engine.RunFile{Result: engine.Result{Run: "20261126-030000-bbbbbb"}}
		for i := range l.run.Stages {
			st := &l.run.Stages[i]
			if st.Kind != "eval" {
				continue
			}
			old := *st
			was.Stages = append(was.Stages, old)
			if last := strings.Contains(st.Addr, "lr=0.2"); last || !came {
				st.State, st.Outputs = engine.Skipped, nil
			}
		}
		l.note(was)
		line := ""
		for _, e := range parse(t, l.html()) {
			if e.name == "p" && strings.Contains(e.text, "Against the baseline") {
				line = e.text
			}
		}
		if strings.Contains(line, "missing") || came == strings.Contains(line, "nothing was measured before the run ended") {
			t.Errorf("came to an eval %v: %s", came, line)
		}
	}
}

func TestEqualRunsMakeEqualBytes(t *testing.T) {
	l := everything(t)
	l.baseline()
	a := l.html()
	for range 3 {
		if !bytes.Equal(a, l.html()) {
			t.Fatal("other bytes")
		}
	}
}

// A run of nothing, a store that lost everything, a note of an older version:
// there still is a report, with every section.
func TestWhatIsLostIsLeftOut(t *testing.T) {
	l := newLab(t)
	if s := string(l.html()); !strings.Contains(s, "The run has no stages") || !strings.Contains(s, "Nothing ran") {
		t.Error("the report of nothing says nothing")
	}
	l = everything(t)
	l.baseline()
	for i := range l.run.Stages {
		l.run.Stages[i].Needs, l.run.Stages[i].Began = nil, l.run.Stages[i].Began.AddDate(-2030, 0, 0)
	}
	for _, dir := range []string{"objects", "actions", "recipes"} {
		if err := os.RemoveAll(l.store.Dir() + "/" + dir); err != nil {
			t.Fatal(err)
		}
	}
	if s := string(l.html()); !strings.Contains(s, "not in the store") || !strings.Contains(s, "could not be compared") ||
		!strings.Contains(s, "no longer has the results of 6 stages") {
		t.Error("the report does not say what is lost")
	}
	l.prog = nil
	parse(t, l.html())
}

// The verdict of a night outlives the results that it was made from, and the
// baseline that it was made against.
func TestNightsKeepTheirVerdict(t *testing.T) {
	l := newLab(t)
	l.eval("eval.e", "x", 10)
	l.run.Gates = []engine.GateResult{{Stage: "eval.e", Name: "fine", Pass: true}}
	old := l.run
	old.Run = "20261126-030000-bbbbbb"
	l.note(old)
	if err := engine.SetBaseline(l.store, l.prog, &old); err != nil {
		t.Fatal(err)
	}
	h := compare.OpenHistory(l.store, engine.PipelineName(l.store, l.prog))
	if err := h.Append(compare.Night{Run: l.run.Run, Baseline: "20261120-030000-cccccc", Verdict: "regression: 1 worse (eval.e qa.acc)", Exit: 3}); err != nil {
		t.Fatal(err)
	}
	const line = "against the baseline of then, run 20261120-030000-cccccc: regression: 1 worse (eval.e qa.acc)."
	if s := string(l.html()); !strings.Contains(s, line) || !strings.Contains(s, "Passed 1 gate") {
		t.Error("a night that was compared with another baseline does not say so")
	}
	if err := os.RemoveAll(l.store.Dir() + "/objects"); err != nil {
		t.Fatal(err)
	}
	if s := string(l.html()); !strings.Contains(s, line) || !strings.Contains(s, "✗</span> Something got worse that night") {
		t.Error("a regression whose results are lost looks like a good night")
	}
}

func TestLargeRunsFit(t *testing.T) {
	l := newLab(t)
	for i := range 5000 {
		st := engine.StageResult{Addr: fmt.Sprintf("step.s%04d", i), Kind: "step", State: engine.Done, Key: artifact.Key{1, byte(i), byte(i >> 8)}, Reason: "it has no earlier result", Began: l.start, Seconds: 1, Notes: []string{"a note of some length about what was done"}}
		if i > 0 {
			st.Needs = []string{fmt.Sprintf("step.s%04d", i-1)}
		}
		if i == 4321 {
			st.State = engine.Failed
		}
		l.run.Stages = append(l.run.Stages, st)
	}
	b := l.html()
	if len(b) > 3<<20 {
		t.Errorf("%d bytes", len(b))
	}
	if s := string(b); !strings.Contains(s, "too many to draw") || !strings.Contains(s, "step.s4321") || !strings.Contains(s, "… and 3500 more stages") {
		t.Error("what is left out is not said, or what failed is")
	}
}

// Boxes do not touch, and every edge leads down.
func TestLayout(t *testing.T) {
	for name, needs := range map[string][][]int{
		"chain":   {nil, {0}, {1}, {2}, {0, 3}},
		"diamond": {nil, {0}, {0}, {1, 2}},
		"wide":    wide(60),
		"none":    {nil},
		"dense":   dense(24),
	} {
		l := arrange(needs)
		for _, row := range l.rows {
			for i := 1; i < len(row); i++ {
				a, b := l.boxes[row[i-1]], l.boxes[row[i]]
				if b.x-b.width()/2 < a.x+a.width()/2+boxGap-2 {
					t.Errorf("%s: boxes at %v and %v touch", name, a.x, b.x)
				}
			}
		}
		for i, ds := range needs {
			for _, d := range ds {
				if l.boxes[l.of[d]].row >= l.boxes[l.of[i]].row {
					t.Errorf("%s: %d is not below %d", name, i, d)
				}
			}
		}
	}
}

// wide is a sweep: one source, n-2 stages, one that takes all.
func wide(n int) [][]int {
	needs := [][]int{nil}
	var all []int
	for i := 1; i < n-1; i++ {
		needs = append(needs, []int{0})
		all = append(all, i)
	}
	return append(needs, all)
}

func dense(n int) (needs [][]int) {
	for i := range n {
		var ds []int
		for d := range i {
			ds = append(ds, d)
		}
		needs = append(needs, ds)
	}
	return needs
}

func TestReduceKeepsWhatIsReached(t *testing.T) {
	needs := dense(30)
	reduce(needs)
	for i := 1; i < 30; i++ {
		if !slices.Equal(needs[i], []int{i - 1}) {
			t.Errorf("%d needs %v", i, needs[i])
		}
	}
}

func TestTicksAreRound(t *testing.T) {
	for _, tc := range []struct {
		a, b float64
		want string
	}{
		{0, 264, "[0 50 100 150 200 250]"}, {-0.08, 1.7, "[0 0.5 1 1.5]"}, {2, 2, "[]"}, {math.Inf(-1), 1, "[]"}, {1e-9, 9e-9, "[2e-09 4e-09 6e-09 8e-09]"},
	} {
		var got []string
		for _, x := range ticks(tc.a, tc.b, 6) {
			got = append(got, short(x))
		}
		if s := fmt.Sprint(got); s != tc.want {
			t.Errorf("%v to %v: %s, want %s", tc.a, tc.b, s, tc.want)
		}
	}
}

// The colours of text stand out from what is behind them, by WCAG 2: 4.5 to 1 for
// text, 3 to 1 for lines that mean something, in both themes.
func TestContrast(t *testing.T) {
	colours := map[string][2]string{}
	for _, m := range regexp.MustCompile(`--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)`).FindAllStringSubmatch(styleCSS, -1) {
		colours[m[1]] = [2]string{m[2], m[3]}
	}
	check := func(front, back string, least float64) {
		for theme, name := range []string{"light", "dark"} {
			f, b := colours[front][theme], colours[back][theme]
			if f == "" || b == "" {
				t.Fatalf("no colour %s or %s", front, back)
			}
			if c := contrast(t, f, b); c < least {
				t.Errorf("%s on %s, %s: %.2f to 1, want %.1f", front, back, name, c, least)
			}
		}
	}
	for _, front := range []string{"fg", "muted", "link", "good", "bad", "warn"} {
		check(front, "bg", 4.5)
		check(front, "panel", 4.5)
	}
	for _, back := range []string{"good-bg", "bad-bg", "warn-bg", "info-bg", "heat"} {
		check("fg", back, 4.5)
	}
	for _, back := range []string{"good-bg", "info-bg", "panel"} {
		check("muted", back, 4.5)
	}
	check("bad", "bad-bg", 4.5)
	check("warn", "warn-bg", 4.5)
	check("strong", "bg", 3)
	check("bar", "bg", 3)
	check("bar", "panel", 3)
}

func contrast(t *testing.T, a, b string) float64 {
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(t *testing.T, hex string) (l float64) {
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}
