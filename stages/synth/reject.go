package synth

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pipe/runtime/stage"
)

const (
	shownRejects = 3
	shownBytes   = 400 // of one of them
)

// allRejected is the error of a stage without a row. Nothing of it is published,
// the output rejects neither, so it tells itself what became of the rows, and all
// of them lie in a file of the work directory.
func allRejected(env *stage.Env, results []result) error {
	counts := map[string]int{}
	var reasons []string
	for _, r := range results {
		if counts[r.reject.Reason]++; counts[r.reject.Reason] == 1 {
			reasons = append(reasons, r.reject.Reason)
		}
	}
	slices.SortStableFunc(reasons, func(a, b string) int { return counts[b] - counts[a] })
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%d %s", counts[r], r)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s, all rejected: %s", stage.Count(len(results), "row"), strings.Join(reasons, ", "))
	for _, r := range results[:min(shownRejects, len(results))] {
		fmt.Fprintf(&text, "\n%s %s: %s", r.reject.ID, r.reject.Reason, clip(r.reject.Detail, shownBytes))
	}
	path := filepath.Join(env.Work, "rejects.jsonl")
	if err := writeRejects(path, results); err != nil {
		return fmt.Errorf("%s\ntry another teacher, other prompts or more attempts (and the rejects could not be written: %w)", &text, err)
	}
	return fmt.Errorf("%s\nall of them are in %s; try another teacher, other prompts or more attempts", &text, path)
}

// writeRejects writes the rejects as pipe cat would print them.
func writeRejects(path string, results []result) error {
	type line struct {
		ID      string `json:"id"`
		Reason  string `json:"reason"`
		Partner string `json:"partner"`
		Detail  string `json:"detail"`
		Text    string `json:"text"`
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	to := json.NewEncoder(w)
	to.SetEscapeHTML(false)
	for _, r := range results {
		d := *r.reject
		err = errors.Join(err, to.Encode(line{d.ID, d.Reason, d.Partner, d.Detail, d.Text}))
	}
	return errors.Join(err, w.Flush(), f.Close())
}
