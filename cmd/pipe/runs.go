package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// lsRuns lists the runs of the pipeline in a file, or of all in a directory.
func lsRuns(t *app, o *options, path string) int {
	store, dir, pipeline, err := storeNear(o, path)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	names, err := engine.RunNames(store)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	g := grid{right: []bool{false, false, false, true, true, true}}
	for _, name := range names {
		r, err := engine.ReadRun(store, name)
		if err != nil {
			g.add(name, "", "", "", "", "", err.Error())
			continue
		}
		if r.Dir != dir || pipeline != "" && r.Pipeline != pipeline {
			continue
		}
		g.add(r.Run, r.Pipeline, moment(r.Started), duration(seconds(r.Seconds)),
			fmt.Sprintf("%d ran", r.Ran), fmt.Sprintf("%d up to date", r.Cached), verdicts(r))
	}
	g.write(t.out)
	return exitOK
}

// moment is a time as the clock on the wall shows it.
func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// verdicts says what went wrong in a run, the first few.
func verdicts(r *engine.RunFile) string {
	var parts []string
	for _, s := range r.Stages {
		if s.State == engine.Failed || s.State == engine.Cancelled {
			parts = append(parts, s.Addr+" "+string(s.State))
		}
	}
	for _, g := range r.Gates {
		if !g.Pass {
			parts = append(parts, "gate "+g.Name+" of "+g.Stage+" failed")
		}
	}
	return firstOf(parts)
}

// firstOf joins the first few words of a list, and counts the others.
func firstOf(list []string) string {
	const most = 3
	if n := len(list); n > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", n-most)
	}
	return strings.Join(list, ", ")
}

// isRun reports whether a word names a run: stages begin with their kind.
func isRun(word string) bool {
	return word == "last" || strings.HasPrefix(word, "last~") || word != "" && word[0] >= '0' && word[0] <= '9'
}

// showRun shows what a run did with each stage.
func showRun(t *app, o *options, name, path string) int {
	store, dir, pipeline, err := storeNear(o, path)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	r, err := engine.FindRun(store, name, dir, pipeline)
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	fmt.Fprintf(t.out, "run %s of %s in %s\nbegan %s, took %s: %d ran, %d up to date\n", r.Run, clean(r.Pipeline), clean(filepath.Clean(r.Dir)),
		moment(r.Started), duration(seconds(r.Seconds)), r.Ran, r.Cached)
	g := grid{right: []bool{false, false, true}}
	for _, s := range r.Stages {
		took, why := duration(seconds(s.Seconds)), s.Reason
		switch s.State {
		case engine.Cached:
			took, why = "", "saved "+duration(seconds(s.Saved))
		case engine.Skipped:
			took, why = "", "needed "+s.Blame
			if s.Blame == "" {
				why = "the run was stopped before"
			}
		case engine.Cancelled:
			why = "stopped; the next run goes on from what it saved"
		case engine.Failed:
			why = s.Error
		}
		g.add("  "+string(s.State), s.Addr, took, oneLine(why, 120))
	}
	g.write(t.out)
	for _, gate := range r.Gates {
		word := "passed"
		if !gate.Pass {
			word = "failed: " + gate.Message
		}
		fmt.Fprintf(t.out, "gate %s of %s %s\n", clean(gate.Name), gate.Stage, clean(word))
	}
	return exitOK
}

// sampleRows are shown of a dataset.
const sampleRows = 3

// showSample prints the first rows of a table, shortened.
func showSample(t *app, a *artifact.Artifact) error {
	var b bytes.Buffer
	if err := printTable(&b, a, sampleRows); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		fmt.Fprintf(t.out, "  %s\n", oneLine(line, 160))
	}
	return nil
}
