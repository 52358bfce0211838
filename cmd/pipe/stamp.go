package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"pipe/runtime/engine"
)

// A stamper finds and leaves the stamp of a run with these arguments: see
// package engine. Runs whose output is for programs leave none: theirs has a
// line for every stage.
type stamper struct {
	store, name string
	facts       engine.Facts

	mu     sync.Mutex
	looked map[string]bool // environment variables looked up
}

// newStamper returns nil for runs that do not take part.
func newStamper(o *options, args []string, path string) *stamper {
	if o.json || o.progress == "json" || o.logLevel != "" || len(o.force) > 0 {
		return nil
	}
	here, err := os.Getwd()
	if err != nil {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return nil
	}
	s := &stamper{looked: map[string]bool{}}
	s.store, err = filepath.Abs(storeDirOf(o, pipelineDir(path)))
	if err != nil {
		return nil
	}
	parts := append([]string{here, program, fmt.Sprint(os.Getuid())}, args...)
	s.name = engine.StampName(parts...)
	s.facts = func(variables []string) []string {
		facts := slices.Clone(parts)
		facts = append(facts, deviceFacts(o.device)...)
		facts = append(facts, engine.FileState(program))
		for _, v := range variables {
			value, ok := os.LookupEnv(v)
			facts = append(facts, fmt.Sprintf("%s %t %s", v, ok, value))
		}
		return facts
	}
	return s
}

// upToDate reports whether the stamp holds, and how many stages are up to date.
func (s *stamper) upToDate() (stages int, ok bool) {
	if s == nil {
		return 0, false
	}
	return engine.CheckStamp(s.store, s.name, s.facts)
}

// note notes that an environment variable was looked up.
func (s *stamper) note(variable string) {
	// A token decides who may fetch a model, never what is in it.
	if s == nil || variable == "HF_TOKEN" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked[variable] = true
}

// leave leaves a stamp if res is one of nothing to do. Its failure is no news
// to anybody: the next run takes a little longer.
func (s *stamper) leave(res *engine.Result, begin time.Time) {
	if s == nil || res == nil {
		return
	}
	s.mu.Lock()
	variables := sortedKeys(s.looked)
	s.mu.Unlock()
	if slices.ContainsFunc(variables, func(v string) bool { return strings.Contains(v, "\n") }) {
		return
	}
	_ = res.Stamp(s.name, begin, variables, s.facts)
}
