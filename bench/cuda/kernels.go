//go:build cuda

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// groups are the measurements. Each group runs in a process of its own: a kernel
// that spoils the device's context, or hangs, spoils only its group.
var groups = []struct {
	name string
	run  func(*lab)
}{
	{"copy", (*lab).copies},
	{"gemm", (*lab).gemms},
	{"cublaslt", (*lab).library},
	{"project", (*lab).projections},
	{"lora", (*lab).adapters},
	{"attention", (*lab).attentions},
	{"pointwise", (*lab).pointwise},
	{"head", (*lab).head},
	{"optimizer", (*lab).optimizers},
	{"gemv", (*lab).gemvs},
	{"cache", (*lab).caches},
	{"experts", (*lab).mixtures},
	{"fp8", (*lab).eights},
	{"tiles", (*lab).tiles},
}

// asked are groups that only run when -group names them: they compare ways to do
// what others measure, or need a newer device.
var asked = map[string]bool{"fp8": true, "tiles": true}

func kernelsCommand(f *flag.FlagSet, args []string) error {
	size := f.String("model", "8b", "sizes of its layers: 8b, 1b or tiny")
	samples := f.Int("samples", 12, "samples of which the median is taken")
	only := f.String("only", "", "a regular expression of the names of what to measure")
	group := f.String("group", "", "only these groups, with commas between: "+groupNames())
	limit := f.Duration("limit", 45*time.Second, "time that a group may take")
	here := f.Bool("here", false, "run in this process")
	f.Parse(args)
	s, ok := allSizes[*size]
	if !ok {
		return fmt.Errorf("model %q: must be 8b, 1b or tiny", *size)
	}
	re, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if *group == "" && asked[g.name] {
			continue
		}
		if *group != "" && !strings.Contains(","+*group+",", ","+g.name+",") {
			continue
		}
		if !*here {
			if err := child(g.name, *limit, "-model="+*size, "-samples="+strconv.Itoa(*samples), "-only="+*only); err != nil {
				report(record{}, "kernels "+g.name, err)
			}
			continue
		}
		b, err := open()
		if err != nil {
			return err
		}
		l, err := newLab(b, s, *samples, re)
		if err != nil {
			return err
		}
		g.run(l)
		b.Close()
	}
	return nil
}

func groupNames() string {
	var s []string
	for _, g := range groups {
		s = append(s, g.name)
	}
	return strings.Join(s, ", ")
}

// child runs a group in a process of its own.
func child(group string, limit time.Duration, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	c := exec.CommandContext(ctx, os.Args[0], append([]string{"kernels", "-here", "-group=" + group}, args...)...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	err := c.Run()
	fmt.Fprintf(os.Stderr, "%s: %.1f s\n", group, time.Since(start).Seconds())
	if ctx.Err() != nil {
		return fmt.Errorf("took more than %v", limit)
	}
	return err
}
