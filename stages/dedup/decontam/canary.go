package decontam

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"pipe/model"
)

// Canaries plants items, disguised, in rows and returns how many of them Find
// finds again: an estimate of the recall on overlaps that someone tried to
// hide, or that a crawler's formatting hides. Up to limit items of at least
// MinContained words are tried, drawn by the seed. carriers are texts of the
// training set that the items are put into.
func (x *Index) Canaries(carriers []string, limit int, seed uint64) (planted, found int) {
	s := model.NewStream(seed, "dedup.canaries")
	for k, i := range s.Perm(len(x.items)) {
		if planted == limit {
			break
		}
		it := x.items[i]
		if len(Words(it.Question)) < MinContained {
			continue
		}
		planted++
		row := disguise(it.Question, k)
		if len(carriers) > 0 {
			c := carriers[k%len(carriers)]
			half := strings.LastIndexByte(c[:len(c)/2], ' ') + 1
			row = c[:half] + "\n" + row + "\n" + c[half:]
		}
		for _, m := range x.Find([]string{row}).Matches {
			if m.Item == i {
				found++
				break
			}
		}
	}
	return planted, found
}

// disguise rewrites text without changing its words: it is wrapped anew, and in
// turn shouted, stripped of punctuation, decomposed, set in full-width letters
// or sprinkled with invisible characters.
func disguise(s string, how int) string {
	words := strings.Fields(s)
	for i, w := range words {
		switch how % 5 {
		case 0:
			w = strings.ToUpper(w)
		case 1:
			if t := strings.TrimFunc(w, unicode.IsPunct); t != "" {
				w = t + " ***"
			}
		case 2:
			w = norm.NFD.String(w)
		case 3:
			w = strings.Map(func(c rune) rune {
				if c > ' ' && c < 0x7f {
					return c + 0xfee0
				}
				return c
			}, w)
		case 4:
			if len(w) > 2 && w[0] < 0x80 && w[1] < 0x80 {
				w = w[:1] + "\u00ad\u200b" + w[1:]
			}
		}
		words[i] = w
	}
	var b strings.Builder
	for i, w := range words {
		b.WriteString(w)
		if i%7 == how%7 {
			b.WriteString("\r\n\t")
		} else {
			b.WriteString(" ")
		}
	}
	return b.String()
}
