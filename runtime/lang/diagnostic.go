package lang

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	wordwrap "github.com/mitchellh/go-wordwrap"
)

// WriteDiagnostics writes each diagnostic with its summary, position, source
// line and advice, separated by blank lines. files is [Program.Files]; width 0
// does not wrap; colour adds terminal escapes. Control characters of the files
// and of the diagnostics, which may come from anywhere, are not written.
func WriteDiagnostics(w io.Writer, files map[string]*hcl.File, diags hcl.Diagnostics, colour bool, width int) error {
	var b bytes.Buffer
	for i, d := range diags {
		if i > 0 {
			b.WriteByte('\n')
		}
		writeDiagnostic(&b, files, d, colour, width)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func writeDiagnostic(b *bytes.Buffer, files map[string]*hcl.File, d *hcl.Diagnostic, colour bool, width int) {
	word, tint, reset := "Error", "\x1b[1;31m", "\x1b[0m"
	if d.Severity == hcl.DiagWarning {
		word, tint = "Warning", "\x1b[1;33m"
	}
	if !colour {
		tint, reset = "", ""
	}
	fmt.Fprintf(b, "%s%s%s: %s\n", tint, word, reset, printable(d.Summary))
	if d.Subject != nil {
		at := d.Subject.String() + inBlock(files[d.Subject.Filename], *d.Subject)
		fmt.Fprintf(b, "  at %s\n", printable(at))
		writeSnippet(b, files[d.Subject.Filename], *d.Subject, tint, reset)
	}
	if d.Detail != "" {
		text := d.Detail
		if width > 20 {
			text = wordwrap.WrapString(text, uint(width-2))
		}
		for line := range strings.SplitSeq(text, "\n") {
			fmt.Fprintf(b, "  %s\n", printable(line))
		}
	}
}

// inBlock names the block around r, such as: , in sft "legal".
func inBlock(f *hcl.File, r hcl.Range) string {
	type contexts interface{ ContextString(offset int) string }
	if f == nil {
		return ""
	}
	if c, ok := f.Nav.(contexts); ok {
		if s := c.ContextString(r.Start.Byte); s != "" {
			return ", in " + s
		}
	}
	return ""
}

// writeSnippet writes the first line of r with carets under r.
func writeSnippet(b *bytes.Buffer, f *hcl.File, r hcl.Range, tint, reset string) {
	if f == nil || r.Start.Byte > len(f.Bytes) || r.Start.Byte < 0 {
		return
	}
	start := bytes.LastIndexByte(f.Bytes[:r.Start.Byte], '\n') + 1
	end := len(f.Bytes)
	if n := bytes.IndexByte(f.Bytes[r.Start.Byte:], '\n'); n >= 0 {
		end = r.Start.Byte + n
	}
	line := strings.TrimRight(string(f.Bytes[start:end]), "\r")
	from := min(r.Start.Byte-start, len(line))
	to := len(line)
	if r.End.Line == r.Start.Line {
		to = min(max(r.End.Byte-start, from), len(line))
	}
	indent := strings.Map(func(c rune) rune {
		if c == '\t' {
			return c
		}
		return ' '
	}, line[:from])
	carets := strings.Repeat("^", max(1, utf8.RuneCountInString(line[from:to])))
	gutter := fmt.Sprintf("%5d", r.Start.Line)
	fmt.Fprintf(b, "%s | %s\n%s | %s%s%s%s\n", gutter, printable(line), strings.Repeat(" ", len(gutter)), indent, tint, carets, reset)
}

// printable replaces each character of a line that would do something else than
// appear, such as start a terminal escape or turn the direction of writing.
func printable(line string) string {
	return strings.Map(func(c rune) rune {
		if c != '\t' && (unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c)) {
			return '·'
		}
		return c
	}, line)
}

func errorAt(r hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &r}
}

// tidy sorts diagnostics by position, removes repetitions (the instances of a
// sweep make the same mistake) and cuts their ties to evaluation contexts,
// which hold handles and could hold secrets.
func tidy(diags hcl.Diagnostics) hcl.Diagnostics {
	type place struct {
		summary, detail string
		at              hcl.Range
	}
	seen := map[place]bool{}
	reached := map[place][]string{} // by which uses of a module
	of := func(d *hcl.Diagnostic) place {
		p := place{summary: d.Summary, detail: d.Detail}
		if d.Subject != nil {
			p.at = *d.Subject
		}
		return p
	}
	for _, d := range diags {
		if m, ok := d.Extra.(*module); ok && !slices.Contains(reached[of(d)], m.reached()) {
			reached[of(d)] = append(reached[of(d)], m.reached())
		}
	}
	var out hcl.Diagnostics
	for _, d := range diags {
		p := of(d)
		if seen[p] {
			continue
		}
		seen[p] = true
		clean := *d
		clean.Expression, clean.EvalContext, clean.Extra = nil, nil, nil
		if by := reached[p]; len(by) > 0 {
			clean.Detail += "\nReached by " + list(by) + "."
		}
		out = append(out, &clean)
	}
	slices.SortStableFunc(out, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return cmp.Compare(boolInt(a.Subject != nil), boolInt(b.Subject != nil))
		}
		return cmp.Or(
			cmp.Compare(a.Subject.Filename, b.Subject.Filename),
			cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte),
			cmp.Compare(a.Summary, b.Summary),
			cmp.Compare(a.Detail, b.Detail))
	})
	return out
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// closest returns the candidate that given most likely misspells, or "".
func closest(given string, candidates []string) string {
	const longest = 64 // the distance takes time in the product of both lengths
	if len(given) > longest {
		return ""
	}
	best, bestDist := "", 1+len(given)/2 // below this many edits
	if len(given) > 3 {
		bestDist = 1 + max(2, len(given)/3)
	}
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if len(c) > longest || c == given {
			continue
		}
		if d := levenshtein.Distance(given, c, nil); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// didYouMean returns a sentence that proposes one of candidates, spelled by
// the format, and otherwise lists them.
func didYouMean(given string, candidates []string, format string) string {
	if c := closest(given, candidates); c != "" {
		return fmt.Sprintf(" Did you mean "+format+"?", c)
	}
	return ""
}

// list joins names for a sentence, at most ten of them.
func list(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}
