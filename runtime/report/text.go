package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// clean makes text from elsewhere fit to be looked at: valid, without control
// characters but line ends and tabs, and without those that turn the direction
// of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// clip is clean for the first n characters.
func clip(s string, n int) string {
	if len(s) > 4*n { // no character has more bytes
		s = s[:4*n]
	}
	rs := []rune(clean(s))
	if len(rs) > n {
		return string(rs[:n]) + "…"
	}
	return string(rs)
}

// middle shortens s to n characters, keeping both ends.
func middle(s string, n int) string {
	rs := []rune(clean(s))
	if len(rs) <= n {
		return string(rs)
	}
	head := (n - 1) / 2
	return string(rs[:head]) + "…" + string(rs[len(rs)-(n-1-head):])
}

// seconds prints a time for people: 850 ms, 12.3 s, 4 m 05 s, 2 h 07 m.
func seconds(s float64) string {
	switch {
	case !(s >= 0) || s > 1e9:
		return "?"
	case s < 0.9995:
		return fmt.Sprintf("%.0f ms", s*1000)
	case s < 59.95:
		return fmt.Sprintf("%.1f s", s)
	}
	n := int(math.Round(s))
	if n < 3600 {
		return fmt.Sprintf("%d m %02d s", n/60, n%60)
	}
	return fmt.Sprintf("%d h %02d m", n/3600, n/60%60)
}

// byteCount prints a number of bytes for people.
func byteCount(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// number prints a measured value: four decimals, or four digits of what is very
// small or large.
func number(v float64) string {
	if a := math.Abs(v); v != 0 && (a < 1e-3 || a >= 1e6) {
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.4f", v)
}

// signed is number with its sign.
func signed(v float64) string {
	if v < 0 {
		return "−" + number(-v)
	}
	return "+" + number(v)
}

// integer prints a count with spaces between the thousands.
func integer(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// counted is a number with its noun.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return integer(int64(n)) + " " + what + "s"
}
