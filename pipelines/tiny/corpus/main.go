// Command corpus writes the training text of embedded://tiny: licence texts,
// and generated tasks that can only be solved by looking back into the context
// (retrieval, tables, copying), without which a model of this size would learn
// no in-context look-up at all.
//
//	go run ./pipelines/tiny/corpus -out DIR -tasks 24000
//	go run ./pipelines/tiny/corpus -chat pipelines/quickstart -seed 7
//
// copies.jsonl.gz holds conversations in which the assistant repeats what the
// user says, most of them short and often repeated: attention to a fixed
// distance solves the shortest, and what it learns there leads to induction
// heads, which the longer ones need. From documents alone a model of this size
// does not find them in any time that we would wait.
//
// The output is a function of the licence file and the flags alone.
package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"

	"pipe/text/tokenizer"
)

type license struct {
	ID, Name, Text string
}

type document struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

func main() {
	log.SetFlags(0)
	in := flag.String("licenses", "pipelines/tiny/licenses.jsonl.gz", "licence texts, as fetch_licenses.sh writes them")
	out := flag.String("out", "", "directory to write text.jsonl.gz, tasks.jsonl.gz and heldout.jsonl.gz to")
	n := flag.Int("tasks", 24000, "generated documents")
	copies := flag.Int("copies", 130000, "generated conversations that copy")
	tok := flag.String("tokenizer", "pipelines/tiny/config/tokenizer.json", "tokenizer of the model")
	chat := flag.String("chat", "", "write the quickstart's rows to this directory instead")
	seed := flag.Uint64("seed", 1, "seed of the generated documents")
	flag.Parse()
	if (*out == "") == (*chat == "") {
		log.Fatal("corpus: give -out DIR or -chat DIR")
	}
	if err := run(*in, *out, *chat, *tok, *n, *copies, *seed); err != nil {
		log.Fatal("corpus: ", err)
	}
}

func run(in, out, chat, tokenizerJSON string, tasks, copies int, seed uint64) error {
	licenses, err := readLicenses(in)
	if err != nil {
		return err
	}
	var train, held []document
	for _, l := range licenses {
		d := document{"license/" + l.ID, l.Text}
		if HeldOut(l.ID) {
			held = append(held, d)
		} else {
			train = append(train, d)
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	g := newGenerator(rng, train)
	if chat != "" {
		return g.writeChat(chat, train, held, 600, 600, 60)
	}
	single, err := singleTokens(tokenizerJSON, g.words)
	if err != nil {
		return err
	}
	var generated, copied []any
	for i := range tasks {
		generated = append(generated, document{fmt.Sprintf("task/%06d", i), g.document()})
	}
	for i := range copies {
		copied = append(copied, g.copies(fmt.Sprintf("copy/%06d", i), single))
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	for name, docs := range map[string][]any{
		"text.jsonl.gz": rows(train), "heldout.jsonl.gz": rows(held), "tasks.jsonl.gz": generated, "copies.jsonl.gz": copied,
	} {
		if err := write(filepath.Join(out, name), docs); err != nil {
			return err
		}
	}
	return nil
}

func rows(docs []document) (out []any) {
	for _, d := range docs {
		out = append(out, d)
	}
	return out
}

// singleTokens returns the words that are one token with the space before them.
func singleTokens(path string, words []string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.Load(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var out []string
	for _, w := range words {
		if len(tok.EncodePlain(" "+w)) == 1 {
			out = append(out, w)
		}
	}
	if len(out) < 100 {
		return nil, fmt.Errorf("%s: only %d words are one token; need 100", path, len(out))
	}
	return out, nil
}

// HeldOut reports whether the licence of that id is kept out of training: one
// in twelve, by a hash of the id, so that adding a licence moves no other.
func HeldOut(id string) bool {
	h := fnv.New32a()
	io.WriteString(h, id)
	return h.Sum32()%12 == 0
}

func readLicenses(path string) ([]license, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var ls []license
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l license
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, len(ls)+1, err)
		}
		ls = append(ls, l)
	}
	return ls, sc.Err()
}

// write writes docs as gzipped JSON lines, with no time stamp inside.
func write(path string, docs []any) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	for _, d := range docs {
		if err := enc.Encode(d); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
