package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/term"

	"pipe/runtime/lang"
)

// A terminal is where pipe talks to people: results go to out, everything
// about them to err. Messages have no capital at the start and no full stop.
//
// When err is a terminal, it may end in live lines, which are redrawn; what is
// printed appears above them.
type terminal struct {
	out, err       io.Writer
	live           bool // err can redraw lines
	outInk, errInk ink
	width, height  int

	mu    sync.Mutex
	lines []string // the live ones
	drawn int      // how many of them are on the screen
	said  bool     // something was printed to err

	help func(fs *flag.FlagSet) // takes the flags of a command asked for --help, instead of printing them
}

func newTerminal(out, err *os.File) *terminal {
	t := &terminal{out: out, err: err, width: 100, height: 24}
	colours := os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	t.outInk = ink(colours && term.IsTerminal(int(out.Fd())))
	if !term.IsTerminal(int(err.Fd())) {
		return t
	}
	t.live, t.errInk = os.Getenv("TERM") != "dumb", ink(colours)
	if w, h, e := term.GetSize(int(err.Fd())); e == nil && w > 20 && h > 3 {
		t.width, t.height = w, h
	}
	return t
}

// errorf prints one error.
func (t *terminal) errorf(format string, args ...any) {
	lines := strings.Split(fmt.Sprintf(format, args...), "\n") // a joined error has several
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	t.printf("%s %s\n", t.errInk.paint(red, "error:"), strings.Join(lines, "\n  "))
}

// diagnose prints what is wrong with a pipeline, at its lines.
func (t *terminal) diagnose(files map[string]*hcl.File, diags hcl.Diagnostics) {
	t.above(func(w io.Writer) { lang.WriteDiagnostics(w, files, diags, bool(t.errInk), t.width) })
}

// printf prints about the work, which must be whole lines.
func (t *terminal) printf(format string, args ...any) {
	t.above(func(w io.Writer) { fmt.Fprintf(w, format, args...) })
}

// above lets f write whole lines above the live ones.
func (t *terminal) above(f func(w io.Writer)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said = true
	var b strings.Builder
	t.erase(&b)
	f(&b)
	t.draw(&b)
	io.WriteString(t.err, b.String())
}

// aboveLines writes whole lines to err, above the live ones.
type aboveLines struct{ t *terminal }

func (a aboveLines) Write(b []byte) (int, error) {
	a.t.above(func(w io.Writer) { w.Write(b) })
	return len(b), nil
}

// show replaces the live lines; none removes them.
func (t *terminal) show(lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	t.erase(&b)
	t.lines = lines
	t.draw(&b)
	io.WriteString(t.err, b.String())
}

// erase and draw write what takes the live lines off the screen and puts them
// there, in one piece so that nothing flickers. They need t.mu.
func (t *terminal) erase(b *strings.Builder) {
	if t.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA\x1b[J", t.drawn)
		t.drawn = 0
	}
}

func (t *terminal) draw(b *strings.Builder) {
	for i, line := range t.lines {
		if i == t.height-2 { // lines that scroll away cannot be redrawn
			line = fmt.Sprintf("  and %d more", len(t.lines)-i)
		}
		if r := []rune(line); len(r) > t.width-1 {
			line = string(r[:t.width-2]) + "…"
		}
		b.WriteString(line + "\n")
		if t.drawn++; i == t.height-2 {
			return
		}
	}
}

// Terminal colours.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
)

// An ink paints, or does not: a file and NO_COLOR get plain text.
type ink bool

func (i ink) paint(code, s string) string {
	if !i {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// clean makes text from elsewhere, such as a teacher's answer in a note, fit
// for one line of a terminal: without control characters, and without those
// that turn the direction of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, s)
}

func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// A lineEncoder writes JSON, one value a line, with control characters as
// escapes of JSON: it is safe to look at in a terminal.
type lineEncoder struct{ w io.Writer }

func jsonLines(w io.Writer) *lineEncoder { return &lineEncoder{w} }

func (e *lineEncoder) Encode(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	line := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if bytes.ContainsFunc(line, isControl) { // in strings, where alone they can be
		var safe bytes.Buffer
		for _, r := range string(line) {
			if isControl(r) {
				fmt.Fprintf(&safe, "\\u%04x", r)
			} else {
				safe.WriteRune(r)
			}
		}
		line = safe.Bytes()
	}
	_, err := e.w.Write(append(line, '\n'))
	return err
}

// A grid is a table of text with aligned columns.
type grid struct {
	rows  [][]string
	right []bool // columns aligned to the right
}

func (g *grid) add(cells ...string) {
	for i := range cells {
		cells[i] = clean(cells[i])
	}
	g.rows = append(g.rows, cells)
}

func (g *grid) write(w io.Writer) {
	var width []int
	for _, r := range g.rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range g.rows {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-len([]rune(c)))
			if i < len(g.right) && g.right[i] {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
			b.WriteString("  ")
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
