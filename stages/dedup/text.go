package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"golang.org/x/text/unicode/norm"

	"pipe/runtime/artifact"
	"pipe/stages/dedup/decontam"
)

// turns returns every text of a row that is said or written, in order.
func turns(r *artifact.Row) []string {
	var out []string
	add := func(s string) {
		if s != "" {
			out = append(out, s)
		}
	}
	add(r.Text)
	for _, l := range [][]artifact.Message{r.Messages, r.Chosen, r.Rejected} {
		for _, m := range l {
			add(m.Content)
		}
	}
	for _, c := range r.Choices {
		add(c)
	}
	add(r.Answer)
	return out
}

// compared is the text by which rows are near or not: everything but system
// turns, which many rows share.
func compared(r *artifact.Row) string {
	s := *r
	s.Messages = nil
	for _, m := range r.Messages {
		if m.Role != "system" {
			s.Messages = append(s.Messages, m)
		}
	}
	return strings.Join(turns(&s), "\n")
}

// asked is what the user says, or the text of a document.
func asked(r *artifact.Row) string {
	var out []string
	for _, m := range r.Messages {
		if m.Role == "user" {
			out = append(out, m.Content)
		}
	}
	if len(out) == 0 {
		return r.Text
	}
	return strings.Join(out, "\n")
}

// item is a row of a benchmark.
func item(r *artifact.Row) decontam.Item {
	it := decontam.Item{ID: r.ID, Question: asked(r), Whole: compared(r), Answer: artifact.Said(r.Answer)}
	if it.Answer == "" && r.Gold >= 0 && int(r.Gold) < len(r.Choices) {
		it.Answer = r.Choices[r.Gold]
	}
	if n := len(r.Messages); it.Answer == "" && n > 0 && r.Messages[n-1].Role == "assistant" {
		it.Answer = artifact.Said(r.Messages[n-1].Content)
	}
	return it
}

// content is a digest of all that a row says, roles included. White space and
// the Unicode form (NFC) make no difference; case and punctuation do.
func content(r *artifact.Row) [sha256.Size]byte {
	h := sha256.New()
	write := func(s string) {
		s = strings.Join(strings.Fields(norm.NFC.String(s)), " ")
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	list := func(n int) { h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n))) }
	write(r.Text)
	for _, l := range [][]artifact.Message{r.Messages, r.Chosen, r.Rejected} {
		list(len(l))
		for _, m := range l {
			write(m.Role)
			write(m.Content)
		}
	}
	list(len(r.Choices))
	for _, c := range r.Choices {
		write(c)
	}
	list(int(r.Gold) + 1)
	write(r.Answer)
	return [sha256.Size]byte(h.Sum(nil))
}

// excerpt is the beginning of a row for people.
func excerpt(s string) string {
	const most = 200
	s = strings.Join(strings.Fields(s), " ")
	n := 0
	for i := range s {
		if n == most {
			return s[:i] + "…"
		}
		n++
	}
	return s
}
