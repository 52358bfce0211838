package embed

import (
	"context"
	"math"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"pipe/stages/dedup/index"
	"pipe/stages/dedup/parallel"
)

// Hash embeds a text as its words, pairs of neighbouring words and groups of
// four letters, each hashed to one of Width places with a sign (Weinberger et
// al. 2009) and counted as 1 + ln(count). Case and Unicode form make no
// difference.
type Hash struct{ Width int }

// Embed implements Embedder.
func (h Hash) Embed(ctx context.Context, texts []string, progress func(done int)) (index.Vectors, error) {
	const block = 1024
	v := index.Vectors{Data: make([]float32, len(texts)*h.Width), Width: h.Width}
	for from := 0; from < len(texts); from += block {
		if err := ctx.Err(); err != nil {
			return v, err
		}
		n := min(block, len(texts)-from)
		parallel.For(n, 8, func(i int) { h.text(v.Row(from+i), texts[from+i]) })
		progress(from + n)
	}
	v.Normalize()
	return v, nil
}

// Close implements Embedder.
func (Hash) Close() error { return nil }

const letters = 4 // of a group

// text adds the features of one text to row.
func (h Hash) text(row []float32, text string) {
	words := units(text)
	features := make([]uint64, 0, 8*len(words))
	last := uint64(0)
	for _, w := range words {
		id := hash(w)
		features = append(features, mixed(id), mixed(last*31+id+2))
		last = id
		padded := " " + w + " "
		starts := make([]int, 0, len(padded)+1)
		for i := range padded {
			starts = append(starts, i)
		}
		starts = append(starts, len(padded))
		for i := 0; i+letters < len(starts); i++ {
			features = append(features, mixed(hash(padded[starts[i]:starts[i+letters]])+1))
		}
	}
	slices.Sort(features) // equal ones together, and one order for the sums
	for i := 0; i < len(features); {
		f, n := features[i], 0
		for ; i < len(features) && features[i] == f; i++ {
			n++
		}
		x := float32(1 + math.Log(float64(n)))
		if f>>63 == 1 {
			x = -x
		}
		row[f%uint64(len(row))] += x
	}
}

// units cuts text into words of letters and digits, and single other marks.
func units(text string) []string {
	text = norm.NFKC.String(cases.Fold().String(norm.NFKC.String(text)))
	var out []string
	start := -1
	for i, c := range text {
		if unicode.IsLetter(c) || unicode.IsNumber(c) || unicode.IsMark(c) {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			out = append(out, text[start:i])
			start = -1
		}
		if !unicode.IsSpace(c) && !unicode.Is(unicode.Cf, c) {
			out = append(out, string(c))
		}
	}
	if start >= 0 {
		out = append(out, text[start:])
	}
	return slices.DeleteFunc(out, func(s string) bool { return strings.TrimSpace(s) == "" })
}

// hash is FNV-1a.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mixed spreads a hash over all bits (the finaliser of SplitMix64).
func mixed(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
