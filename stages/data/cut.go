package data

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"pipe/runtime/artifact"
)

// cut returns the rows that a row is split into: itself unless it is a
// document and the block says so. Pieces are numbered from 1 in their ids.
func (s *spec) cut(row artifact.Row) []artifact.Row {
	if s.Split == "none" || row.Text == "" || len(row.Messages) > 0 || len(row.Choices) > 0 {
		return []artifact.Row{row}
	}
	pieces := split(row.Text, s.Split, s.MaxChars)
	rows := make([]artifact.Row, len(pieces))
	for i, p := range pieces {
		rows[i] = row
		rows[i].Text = p
		rows[i].ID = fmt.Sprintf("%s#%d", row.ID, i+1)
	}
	return rows
}

// split cuts text at blank lines ("paragraph") or line ends ("line"). With
// limit > 0 neighbours are joined as long as they have at most limit
// characters together, and longer pieces are cut at white space.
func split(text, how string, limit int) []string {
	sep := "\n"
	units := strings.Split(text, "\n")
	if how == "paragraph" {
		sep = "\n\n"
		units = paragraphs(units)
	}
	var pieces []string
	joined, length := "", 0
	flush := func() {
		if joined != "" {
			pieces = append(pieces, joined)
		}
		joined, length = "", 0
	}
	for _, u := range units {
		if strings.TrimSpace(u) == "" {
			continue
		}
		u = strings.TrimRightFunc(u, unicode.IsSpace)
		n := utf8.RuneCountInString(u)
		if limit == 0 {
			pieces = append(pieces, u)
			continue
		}
		if length > 0 && length+len(sep)+n <= limit {
			joined, length = joined+sep+u, length+len(sep)+n
			continue
		}
		flush()
		for n > limit {
			var head string
			head, u = chop(strings.TrimLeftFunc(u, unicode.IsSpace), limit)
			if pieces, n = append(pieces, head), utf8.RuneCountInString(u); n == 0 {
				break
			}
		}
		joined, length = u, n
	}
	flush()
	return pieces
}

// paragraphs joins the lines between blank lines.
func paragraphs(lines []string) []string {
	var out, open []string
	for _, l := range append(lines, "") {
		if strings.TrimSpace(l) != "" {
			open = append(open, l)
		} else if len(open) > 0 {
			out = append(out, strings.Join(open, "\n"))
			open = nil
		}
	}
	return out
}

// chop cuts text, which does not begin with white space, after the last word
// that ends within limit characters, or after that many when a single word is
// longer.
func chop(text string, limit int) (head, tail string) {
	end, space, n := len(text), 0, 0
	for i, c := range text {
		if unicode.IsSpace(c) {
			space = i
		}
		if n == limit {
			end = i
			break
		}
		n++
	}
	if space > 0 && end < len(text) {
		end = space
	}
	return strings.TrimRightFunc(text[:end], unicode.IsSpace), strings.TrimLeftFunc(text[end:], unicode.IsSpace)
}
