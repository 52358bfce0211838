package main

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"pipe/stages"
)

// Every command in the documents of nights and reports is one that pipe takes,
// with the flags and as many arguments as it has.
func TestDocumentedCommandsParse(t *testing.T) {
	seen := 0
	for _, path := range []string{"../../docs/nightly.md", "../../docs/report.md"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:pipe|.*(?:/| )pipe) (nightly|report|metrics|baseline) ([^>|#\n]*)`).FindAllStringSubmatch(string(b), -1) {
			args := strings.Fields(m[2])
			if len(args) > 0 && strings.ContainsAny(args[0], "`,;") {
				continue // prose
			}
			seen++
			var errs bytes.Buffer
			app := &app{&terminal{out: &errs, err: &errs}, stages.All}
			want := strings.Fields(argsOf(m[1]))
			if m[1] == "metrics" && len(args) > 0 && args[0] == "diff" {
				args, want = args[1:], []string{"A", "B", "[FILE|DIR]"}
			}
			_, _, err := parseArgs(app, m[1], want, args, func(fs *flag.FlagSet, o *options) {
				switch m[1] {
				case "nightly":
					nightlyFlags(fs, o)
				case "report":
					reportFlags(fs, o)
				}
			})
			if err != nil {
				t.Errorf("%s: %s: %s", path, m[0], errs.String())
			}
		}
	}
	if seen < 9 {
		t.Errorf("only %d commands were found", seen)
	}
}

// The units are made of sections and settings, and the service is what the timer
// starts.
func TestDocumentedUnits(t *testing.T) {
	b, err := os.ReadFile("../../docs/nightly.md")
	if err != nil {
		t.Fatal(err)
	}
	units := regexp.MustCompile("(?s)`/etc/systemd/system/(pipe-nightly\\.[a-z]+)`:\n\n```ini\n(.*?)```").FindAllStringSubmatch(string(b), -1)
	if len(units) != 2 {
		t.Fatalf("%d units", len(units))
	}
	line := regexp.MustCompile(`^(\[(Unit|Service|Timer|Install)\]|[A-Z][A-Za-z]+=\S.*|#.*|)$`)
	for _, u := range units {
		for l := range strings.SplitSeq(u[2], "\n") {
			if !line.MatchString(l) {
				t.Errorf("%s: %q", u[1], l)
			}
		}
	}
}
