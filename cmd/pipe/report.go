package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"pipe/runtime/engine"
	"pipe/runtime/report"
)

func reportFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.file, "o", "report.html", "write the report to `FILE`; - is standard output")
}

func runReport(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "report", args, reportFlags)
	if err != nil {
		return usageCode(err)
	}
	run, file := runAndFile(pos[0], pos[1])
	s, code := openStored(t, o, file)
	if code != exitOK {
		return code
	}
	f, err := engine.FindRunOf(s.store, s.prog, run)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	if err := notDirectory(o.file); err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	if o.file == "-" {
		w := bufio.NewWriter(t.out)
		if err := errors.Join(report.Write(w, s.store, s.prog, f), w.Flush()); err != nil {
			t.errorf("write the report: %v", err)
			return exitFailed
		}
		return exitOK
	}
	if err := writeReport(o.file, s, f); err != nil {
		t.errorf("write the report: %v", err)
		return exitFailed
	}
	fmt.Fprintf(t.out, "the report of run %s is %s\n", f.Run, clean(o.file))
	return exitOK
}

// notDirectory refuses a directory as the file of -o.
func notDirectory(path string) error {
	if !isDir(path) {
		return nil
	}
	return fmt.Errorf("-o %s is a directory; name a file in it: -o %s", clean(path), clean(filepath.Join(path, "report.html")))
}

// writeReport writes the report of a run to a file, whole or not at all.
func writeReport(path string, s stored, f *engine.RunFile) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".report-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	w := bufio.NewWriter(tmp)
	if err := errors.Join(report.Write(w, s.store, s.prog, f), w.Flush(), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
