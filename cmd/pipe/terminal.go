package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// A terminal is where pipe talks to people: results go to out, everything
// about them to err. Messages have no capital at the start and no full stop.
type terminal struct {
	out, err io.Writer
	live     bool // err is a terminal: lines may be redrawn
	colour   bool
	width    int

	mu sync.Mutex
}

func newTerminal(out, err *os.File) *terminal {
	t := &terminal{out: out, err: err, width: 100}
	if term.IsTerminal(int(err.Fd())) {
		t.live = os.Getenv("TERM") != "dumb"
		t.colour = t.live && os.Getenv("NO_COLOR") == ""
		if w, _, e := term.GetSize(int(err.Fd())); e == nil && w > 20 {
			t.width = w
		}
	}
	return t
}

func (t *terminal) errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.err, "%s %s\n", t.paint(red, "error:"), fmt.Sprintf(format, args...))
}

func (t *terminal) printf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.err, format, args...)
}

// Terminal colours.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	grey   = "90"
	bold   = "1"
)

func (t *terminal) paint(code, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// A grid is a table of text with aligned columns.
type grid struct {
	rows  [][]string
	right []bool // columns aligned to the right
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

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
