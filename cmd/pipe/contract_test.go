package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What --json prints is a contract: the fields of each type of line, with
// their JSON types; those after a bar are there when they apply. A new field
// may be added here, none may change or go.
var contract = map[string]string{
	"plan":   "action:string reason:string stage:string type:string | estimate:object saved:object",
	"totals": "cached:number maybe:number run:number saved:object type:string | estimate_maybe:object estimate_run:object",
	"stage":  "outputs:object seconds:number stage:string state:string type:string | blame:string error:string key:string reason:string spent:object",
	"metric": "name:string stage:string step:number type:string value:number",
	"note":   "stage:string text:string type:string",
	"gate":   "gate:string pass:bool stage:string type:string | baseline:string message:string note:string values:string",
	"budget": "budget:string left:number limit:string of:string spent:object type:string",
	"run":    "exit:number ok:bool type:string | cached:number ran:number run:string seconds:number",
}

func TestJSONLinesKeepTheirFields(t *testing.T) {
	dir := t.TempDir()
	put("p.hcl", `
step "a" {
  text = "one"
}
step "alone" {
  text = "two"
}
step "bad" {
  fail = "it fails"
}
step "after" {
  from = [step.bad.rows]
}
score "s" {
  from  = step.a.rows
  base  = 0.5
  tuned = 0.75
  gate "passes" {
    condition     = self.metrics["qa.acc"] > 0.5
    error_message = "low"
  }
  gate "fails" {
    condition     = self.metrics["qa.acc"] > 1
    error_message = "low"
  }
  gate "no_regression" {
    condition     = self.metrics["qa.acc"] >= baseline.metrics["qa.acc"]
    error_message = "worse"
  }
}
`)(t, dir)
	put("poor/p.hcl", `
teacher "t" {
  provider      = "openai"
  endpoint      = "http://127.0.0.1:1/v1"
  model_id      = "never asked: one token is not enough"
  budget_tokens = 1
}
step "docs" {
  text = "one"
}
synth "cot" {
  teacher          = teacher.t
  documents        = step.docs.rows
  method           = "document_to_dialogue"
  count            = 1
  question_prompt  = "Read this text. {text}"
  reasoning_prompt = "Think step by step"
  answer_prompt    = "Answer."
}
`)(t, dir)
	path := filepath.Join(dir, "p.hcl")
	_, plan, _ := runAgain(t, "plan", "--json", path)
	_, run, _ := runAgain(t, "run", "--json", "--keep-going", path)
	if code, _, err := runAgain(t, "baseline", "set", "last", path); code != exitOK {
		t.Fatal(err)
	}
	_, replan, _ := runAgain(t, "plan", "--json", "--force", "step.a", path)
	_, again, _ := runAgain(t, "run", "--json", "--target", "score.s", path)
	text, err := os.ReadFile(path)
	check(t, err)
	put("p.hcl", strings.Replace(string(text), `score "s"`, `score "new"`, 1))(t, dir) // the baseline lacks it
	_, more, _ := runAgain(t, "run", "--json", "--target", "score.new", path)
	_, poor, _ := runAgain(t, "run", "--json", filepath.Join(dir, "poor", "p.hcl"))
	_, broken, _ := runAgain(t, "run", "--json", filepath.Join(dir, "none.hcl"))

	seen := map[string]map[string]bool{} // fields by type
	states := map[string]bool{}
	for line := range strings.Lines(plan + run + replan + again + more + poor + broken) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		typ := fmt.Sprint(v["type"])
		always, sometimes, _ := strings.Cut(contract[typ], " | ")
		known := strings.Fields(always + " " + sometimes)
		got := fieldTypes(v)
		if seen[typ] == nil {
			seen[typ] = map[string]bool{}
		}
		for _, f := range got {
			seen[typ][f] = true
			if !slices.Contains(known, f) {
				t.Errorf("%s: a %s line must not have %s", strings.TrimSpace(line), typ, f)
			}
		}
		for _, f := range strings.Fields(always) {
			if !slices.Contains(got, f) {
				t.Errorf("%s: a %s line must have %s", strings.TrimSpace(line), typ, f)
			}
		}
		if typ == "stage" {
			states[fmt.Sprint(v["state"])] = true
		}
	}
	for typ, fields := range contract {
		for _, f := range strings.Fields(strings.ReplaceAll(fields, "|", "")) {
			if !seen[typ][f] {
				t.Errorf("no %s line had %s", typ, f)
			}
		}
	}
	if got, want := strings.Join(slices.Sorted(maps.Keys(states)), " "), "cached cancelled done failed skipped start"; got != want {
		t.Errorf("states %q, want %q", got, want)
	}
	// The last line is that of the run.
	for _, out := range []string{run, again, poor, broken} {
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, `"type":"run"`) {
			t.Errorf("the last line is %s", last)
		}
	}
}

func fieldTypes(v map[string]any) (out []string) {
	for name, x := range v {
		typ := "object"
		switch x.(type) {
		case string:
			typ = "string"
		case float64:
			typ = "number"
		case bool:
			typ = "bool"
		}
		out = append(out, name+":"+typ)
	}
	return out
}
