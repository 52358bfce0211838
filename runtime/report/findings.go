package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// A finding is what a stage threw out of a dataset, and why.
type finding struct {
	Stage   string
	Head    string
	Reasons []reason
	Note    string
}

type reason struct {
	Name  string
	Count string
	Drops []dropView
	More  string
}

type dropView struct {
	ID, Text, Score, Detail string
	Partner, PartnerText    string
}

// mostFindings is how many stages are shown.
const mostFindings = 40

// findings lists the rows that dedup, synth and others dropped.
func (r *reader) findings() (out []finding) {
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		for _, name := range sortedKeys(st.Outputs) {
			o := st.Outputs[name]
			if o.Type != artifact.Dataset || name != "drops" && name != "rejects" || len(out) == mostFindings {
				continue
			}
			a, err := r.open(o)
			if err != nil {
				out = append(out, finding{Stage: clean(st.Addr), Note: clip(err.Error(), 300)})
				continue
			}
			out = append(out, r.finding(st, name, a))
		}
	}
	return out
}

func (r *reader) finding(st *engine.StageResult, name string, a *artifact.Artifact) finding {
	f := finding{Stage: clean(st.Addr), Head: fmt.Sprintf("%s %s", integer(a.Count()), clean(name))}
	for _, other := range sortedKeys(st.Outputs) {
		if o := st.Outputs[other]; o.Type == artifact.Dataset && other == "dataset" {
			f.Head += fmt.Sprintf(", %s kept", counted(int(o.Rows), "row"))
		}
	}
	count := map[string]int{}
	shown := map[string][]artifact.Drop{}
	n := 0
	for d, err := range artifact.Rows[artifact.Drop](a) {
		if err != nil {
			f.Note = clip(err.Error(), 300)
			break
		}
		if n++; n > mostScanned {
			f.Note = fmt.Sprintf("Only the first %s were counted.", counted(mostScanned, "row"))
			break
		}
		if len(count) >= 50 && count[d.Reason] == 0 {
			d.Reason = "other"
		}
		if count[d.Reason]++; count[d.Reason] <= perReason {
			shown[d.Reason] = append(shown[d.Reason], d)
		}
	}
	partners := map[string]string{}
	for _, ds := range shown {
		for _, d := range ds {
			if d.Partner != "" {
				partners[d.Partner] = ""
			}
		}
	}
	r.findPartners(st, partners)
	names := sortedKeys(count)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(count[b], count[a]) })
	for _, k := range names {
		x := reason{Name: clip(k, 60), Count: integer(int64(count[k]))}
		for _, d := range shown[k] {
			v := dropView{ID: clip(d.ID, 80), Text: clip(d.Text, textLength), Detail: clip(d.Detail, textLength), Partner: clip(d.Partner, 80), PartnerText: clip(partners[d.Partner], textLength)}
			if d.Score != 0 {
				v.Score = fmt.Sprintf("%.3f", d.Score)
			}
			x.Drops = append(x.Drops, v)
		}
		if m := count[k] - len(shown[k]); m > 0 {
			x.More = "… and " + integer(int64(m)) + " more"
		}
		f.Reasons = append(f.Reasons, x)
	}
	return f
}

// findPartners fills in the texts of rows by their ids: those that were kept,
// and those of the tests that were matched.
func (r *reader) findPartners(st *engine.StageResult, texts map[string]string) {
	left := len(texts)
	wanted := map[string]map[string]bool{} // partners by the id of their row; "a.txt#2" is a part of "a.txt"
	want := func(name, id string) {
		if wanted[name] == nil {
			wanted[name] = map[string]bool{}
		}
		wanted[name][id] = true
	}
	for id := range texts {
		want(id, id)
		if at := strings.LastIndexByte(id, '#'); at > 0 {
			want(id[:at], id)
		}
	}
	look := func(o artifact.Object) {
		if left == 0 || o.Type != artifact.Dataset {
			return
		}
		a, err := r.open(o)
		if err != nil {
			return
		}
		if kind, err := artifact.RowType(a); err != nil || kind != "row" {
			return
		}
		n := 0
		for x, err := range artifact.Rows[artifact.Row](a) {
			if n++; err != nil || n > mostScanned || left == 0 {
				return
			}
			for id := range wanted[x.ID] {
				if t := rowText(x); t != "" && texts[id] == "" {
					texts[id] = t
					left--
				}
			}
		}
	}
	look(st.Outputs["dataset"])
	ins := r.preimage(st).Inputs
	for _, path := range sortedKeys(ins) {
		look(r.objects[ins[path]])
	}
}

// rowText is a row in one piece.
func rowText(x artifact.Row) string {
	parts := []string{x.Text}
	for _, m := range x.Messages {
		parts = append(parts, m.Content)
	}
	parts = append(parts, x.Answer)
	return strings.TrimSpace(strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "\n"))
}
