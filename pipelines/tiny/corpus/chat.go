package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The quickstart's own rows: small forms and notes with a question about them,
// in chat form. Training and test rows share no key word and no value.

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatRow struct {
	ID       string    `json:"id"`
	Messages []message `json:"messages"`
}

// A pairRow is a preference: the bare value over a sentence that holds it.
type pairRow struct {
	ID       string    `json:"id"`
	Messages []message `json:"messages"`
	Chosen   []message `json:"chosen"`
	Rejected []message `json:"rejected"`
}

type questionRow struct {
	ID       string   `json:"id"`
	Question string   `json:"question"`
	Answer   string   `json:"answer,omitempty"`
	Choices  []string `json:"choices,omitempty"`
	Gold     *int     `json:"gold,omitempty"`
}

// A fact is a text, a question about it, the answer, and wrong answers that
// stand in the text too.
type fact struct {
	text, question, answer string
	sentence               string // the answer as a sentence
	others                 []string
}

// fact makes a form with n fields, or a paragraph with n statements between
// filler sentences.
func (g *generator) fact() fact {
	keys := g.keys(4)
	values := make([]string, len(keys))
	var lines []string
	form := g.rng.IntN(2) == 0
	for i, k := range keys {
		for values[i] == "" || contains(values[:i], values[i]) {
			values[i] = g.value()
		}
		if form {
			lines = append(lines, capital(k)+": "+values[i])
		} else {
			lines = append(lines, "The "+k+" is "+values[i]+".")
		}
	}
	text := strings.Join(lines, "\n")
	if !form {
		at := g.rng.IntN(len(lines) + 1)
		lines = append(lines[:at], append([]string{g.pick(g.sentences)}, lines[at:]...)...)
		text = strings.Join(lines, " ")
	}
	pick := g.rng.IntN(len(keys))
	f := fact{text: text, question: "What is the " + keys[pick] + "?", answer: values[pick], sentence: "The " + keys[pick] + " is " + values[pick] + "."}
	for i, v := range values {
		if i != pick {
			f.others = append(f.others, v)
		}
	}
	return f
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// prompt is the user's turn.
func (f fact) prompt() string { return f.text + "\n\n" + f.question }

// writeChat writes lookup.jsonl (training, with planted copies, near copies
// and test items), general.jsonl (the kinds of text the model was
// pretrained on), pairs.jsonl (preferences, training), and the tests
// extract.jsonl, choice.jsonl and prose.jsonl to dir.
func (g *generator) writeChat(dir string, licenses, held []document, train, pairs, test int) error {
	half := len(g.words) / 2
	g.rng.Shuffle(len(g.words), func(i, j int) { g.words[i], g.words[j] = g.words[j], g.words[i] })
	all := g.words
	var extract, choice []any
	var tests []fact
	g.words = all[:half]
	for i := range test {
		f := g.fact()
		tests = append(tests, f)
		extract = append(extract, questionRow{ID: fmt.Sprintf("extract-%03d", i), Question: f.prompt(), Answer: f.answer})
		f = g.fact()
		gold := g.rng.IntN(4)
		choices := append(append(append([]string{}, f.others[:gold]...), f.answer), f.others[gold:]...)
		choice = append(choice, questionRow{ID: fmt.Sprintf("choice-%03d", i), Question: f.prompt(), Choices: choices, Gold: &gold})
	}
	g.words = all[half:]
	var lookup []any
	row := func(id string, f fact, answer string) chatRow {
		return chatRow{id, []message{{"user", f.prompt()}, {"assistant", answer}}}
	}
	var facts []fact
	for i := range train { // half of them say a sentence: which to say is left to the pairs
		f := g.fact()
		facts = append(facts, f)
		lookup = append(lookup, row(fmt.Sprintf("lookup-%03d", i), f, [2]string{f.answer, f.sentence}[i%2]))
	}
	for i := range 6 { // exact copies, copies in other dress, and leaked test items
		lookup = append(lookup, row(fmt.Sprintf("planted-copy-%d", i), facts[i*14], facts[i*14].answer))
		near := facts[i*14+4]
		near.text = strings.ReplaceAll(near.text, "\n", " \n") + " "
		near.question = strings.ToUpper(near.question[:1]) + near.question[1:len(near.question)-1] + " ?"
		lookup = append(lookup, row(fmt.Sprintf("planted-near-%d", i), near, near.answer))
		leak := tests[i*5]
		leak.text = strings.ToUpper(leak.text)
		lookup = append(lookup, row(fmt.Sprintf("planted-leak-%d", i), leak, leak.answer))
	}
	general := paragraphs(licenses, 120)
	for i := range 60 {
		general = append(general, document{fmt.Sprintf("general-%02d", i), g.document()})
	}
	var prefer []any
	for i := range pairs {
		f := g.fact()
		prefer = append(prefer, pairRow{
			ID: fmt.Sprintf("pair-%03d", i), Messages: []message{{"user", f.prompt()}},
			Chosen: []message{{"assistant", f.answer}}, Rejected: []message{{"assistant", f.sentence}},
		})
	}
	for name, rows := range map[string][]any{"lookup.jsonl": lookup, "extract.jsonl": extract, "choice.jsonl": choice, "general.jsonl": general, "prose.jsonl": paragraphs(held, 40), "pairs.jsonl": prefer} {
		if err := writeRows(filepath.Join(dir, name), rows); err != nil {
			return err
		}
	}
	return nil
}

// paragraphs returns one paragraph of each of the first n documents that have
// one of a sensible length.
func paragraphs(docs []document, n int) (rows []any) {
	for _, d := range docs {
		for _, p := range strings.Split(d.Text, "\n\n") {
			if p = strings.TrimSpace(p); len(p) >= 300 && len(p) <= 1200 && len(rows) < n {
				rows = append(rows, document{d.ID, p})
				break
			}
		}
	}
	return rows
}

func writeRows(path string, rows []any) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return f.Close()
}
