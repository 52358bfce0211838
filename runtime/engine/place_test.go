package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// A model whose weights cannot be used stops the run before any stage, unless
// nothing needs them; with KeepGoing what does not need the model is done.
func TestUnusableWeightsStopTheRun(t *testing.T) {
	src := tuned + "\nstep \"apart\" {\n id = \"apart\"\n text = \"x\"\n}\n"
	l := newLab(t)
	l.write("weights", "w")
	checked := 0
	bad := func(o *Options) {
		o.CheckWeights = func(path, _ string) error {
			if path != filepath.Join(l.dir, "weights") {
				t.Errorf("path is %s", path)
			}
			checked++
			return errors.New("no weights")
		}
	}
	res, ran, err := l.run(src, bad)
	contains(t, "run", err, "model.base", "source: no weights")
	if len(ran) > 0 || res.stage(t, "step.apart").State != Skipped || res.stage(t, "model.base").State != Failed {
		t.Errorf("%v ran; states %v", ran, states(res))
	}
	var se *StageError
	if !errors.As(err, &se) || len(se.Diags) != 1 || lineOf(se.Diags[0]) != 3 || se.Diags[0].Summary != "Model cannot be used" {
		t.Errorf("diagnostics are %v", se.Diags)
	}
	if _, err := Plan(context.Background(), l.load(src), func() Options { o := l.options(); bad(&o); return o }()); err == nil {
		t.Error("the plan has no error")
	}
	if _, ran, _ = l.run(src, bad, func(o *Options) { o.KeepGoing = true }); fmt.Sprint(ran) != "[apart]" {
		t.Errorf("keep going: %v ran", ran)
	}
	four := strings.Replace(src, "source =", "quantize = \"nf4\"\nsource =", 1)
	_, _, err = l.run(four, func(o *Options) {
		o.CheckWeights = func(_, quantize string) error {
			if quantize == "nf4" {
				return errors.New("is quantised already")
			}
			return nil
		}
	})
	contains(t, "quantised twice", err, "model.base", "quantize: is quantised already")
	before := checked
	if _, ran, err = l.run(src, bad, func(o *Options) { o.Targets = []string{"step.apart"} }); err != nil || checked != before {
		t.Errorf("a target that needs no model: %v, %v ran, %d checks", err, ran, checked-before)
	}
}

// A stage that would refuse what is made of a model says so before it is made: on its
// own line, and only if that model reaches it.
func TestDemandsStopTheRun(t *testing.T) {
	src := strings.Replace(tuned, "score = 0.75", "score = 0.75\n  refuses = \"weights\"", 1) +
		"\nstep \"apart\" {\n id = \"apart\"\n text = \"x\"\n}\nmodel \"other\" {\n source = \"others\"\n}\ntune \"other\" {\n id = \"other\"\n base = model.other\n}\n"
	l := newLab(t)
	l.write("weights", "w")
	l.write("others", "o")
	_, ran, err := l.run(src)
	contains(t, "run", err, "judge.it", "model: is made of weights")
	if len(ran) > 0 {
		t.Errorf("%v ran", ran)
	}
	var se *StageError
	if !errors.As(err, &se) || se.Addr != "judge.it" || len(se.Diags) != 1 || lineOf(se.Diags[0]) != 12 || se.Diags[0].Summary != "Stage failed" {
		t.Errorf("it is %+v", se)
	}
	if _, err := Plan(context.Background(), l.load(src), l.options()); err == nil || !strings.Contains(err.Error(), "is made of weights") {
		t.Errorf("the plan: %v", err)
	}
	l.must(strings.Replace(src, `refuses = "weights"`, `refuses = "others"`, 1), "adapter again apart judge other", func(o *Options) { o.Parallelism = 1 })
	if _, ran, _ = l.run(strings.ReplaceAll(src, "= 8", "= 9"), func(o *Options) { o.KeepGoing = true }); !slices.Contains(ran, "adapter") {
		t.Errorf("keep going: %v ran", ran)
	}
}

// Only what reads weights needs them.
func TestWeightUses(t *testing.T) {
	l := newLab(t)
	for want, src := range map[string]string{
		"map[model.base:true]": tuned,
		"map[]":                "model \"base\" {\n source = \"weights\"\n}\nlean \"x\" {\n base = model.base\n}\n",
		"map[model.b:true]":    "model \"b\" {\n source = \"w\"\n}\nteacher \"t\" {\n provider = \"local\"\n model = model.b\n}\n",
		"map[model.c:false]":   "",
	} {
		if src == "" {
			want, src = "map[]", "model \"c\" {\n source = \"w\"\n}\nteacher \"t\" {\n provider = \"journal\"\n journal = \"j\"\n model = model.c\n}\n"
		}
		kinds := append(l.kinds(), stage.Kind{Name: "lean", Version: 1, Outputs: []stage.Output{{Name: "model", Type: artifact.Model}}, New: func() stage.Stage { return &lean{} }})
		p, diags := lang.LoadSource([]byte(src), "p.hcl", l.dir, kinds, lang.Options{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		equal(t, src, fmt.Sprint(weightUses(p.Nodes)), want)
	}
}

type lean struct {
	Base stage.Model `hcl:"base" doc:"Model"`
}

func (*lean) Check() error                          { return nil }
func (*lean) Run(context.Context, *stage.Env) error { return nil }
func (*lean) NeedsWeights(string) bool              { return false }

func TestConflictingPlaces(t *testing.T) {
	at := func(p string) string { return filepath.FromSlash("/w/" + p) }
	taken := []place{{at("out/a"), "export.a (p.hcl:7)"}}
	kept := []place{{at("p"), "the pipeline itself"}, {at("docs/x.txt"), "docs/x.txt"}}
	for target, want := range map[string]string{
		"out/a": "is also the path of export.a (p.hcl:7)", "out/a/b": "lies inside the path of export.a", "out": "holds the path of export.a",
		"store": "lies in the artifact store", "store/x": "lies in the artifact store", "docs": "holds docs/x.txt", "docs/x.txt": "holds docs/x.txt",
		"p": "holds the pipeline itself", "p/out": "", "out/ab": "", "docs/y": "", "..store": "",
	} {
		got := conflict(at(target), at("store"), taken, kept)
		if want == "" && got != "" || want != "" && !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	if got := conflict(at(""), at("store"), nil, nil); !strings.Contains(got, "holds the artifact store") {
		t.Errorf("around the store: %q", got)
	}
}
