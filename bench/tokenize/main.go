// Command tokenize encodes the text that bench/fidelity/tokenizer.py gathered
// and counts the documents whose ids differ from Hugging Face tokenizers.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pipe/text/tokenizer"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./bench/tokenize DIR")
		os.Exit(2)
	}
	bad, err := compare(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if bad > 0 {
		os.Exit(1)
	}
}

func compare(dir string) (bad int, err error) {
	docs, err := read(filepath.Join(dir, "docs.bin"), 1)
	if err != nil {
		return 0, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.ids"))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("%s has no .ids files; run bench/fidelity/tokenizer.py first", dir)
	}
	for _, f := range files {
		n, err := compareOne(docs, f)
		if err != nil {
			return 0, err
		}
		bad += n
	}
	return bad, nil
}

func compareOne(docs [][]byte, idsFile string) (int, error) {
	name := idsFile[:len(idsFile)-len(".ids")]
	data, err := os.ReadFile(name + ".json")
	if err != nil {
		return 0, err
	}
	tok, err := tokenizer.Load(data)
	if err != nil {
		return 0, err
	}
	want, err := read(idsFile, 4)
	if err != nil {
		return 0, err
	}
	if len(want) != len(docs) {
		return 0, fmt.Errorf("%s: %d documents, not %d", idsFile, len(want), len(docs))
	}
	var size, tokens, bad, badDecode int
	got := make([][]int32, len(docs))
	start := time.Now()
	for i, d := range docs {
		got[i] = tok.Encode(string(d))
		size += len(d)
		tokens += len(got[i])
	}
	seconds := time.Since(start).Seconds()
	for i, d := range docs {
		if !slices.Equal(got[i], ids(want[i])) {
			if bad++; bad <= 3 {
				report(tok, i, string(d), got[i], ids(want[i]))
			}
		}
		if tok.Decode(got[i]) != string(d) {
			badDecode++
		}
	}
	fmt.Printf("%s: %d documents, %.1f MB, %d tokens, %d documents differ, %d do not decode to themselves, %.1f MB/s\n",
		filepath.Base(name), len(docs), float64(size)/1e6, tokens, bad, badDecode, float64(size)/1e6/seconds)
	return bad, nil
}

// report shows where two encodings part.
func report(tok *tokenizer.Tokenizer, doc int, text string, got, want []int32) {
	k := 0
	for k < len(got) && k < len(want) && got[k] == want[k] {
		k++
	}
	show := func(ids []int32) string { return tok.Decode(ids[max(0, min(k-2, len(ids))):min(k+4, len(ids))]) }
	fmt.Printf("  document %d (%d bytes), token %d: got %q, want %q\n", doc, len(text), k, show(got), show(want))
}

// read returns the records of a file: a count (uint32, little-endian) and that
// many units.
func read(path string, unit int) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for len(b) >= 4 {
		n := int(binary.LittleEndian.Uint32(b)) * unit
		if n > len(b)-4 {
			return nil, fmt.Errorf("%s is cut off", path)
		}
		out = append(out, b[4:4+n])
		b = b[4+n:]
	}
	return out, nil
}

func ids(b []byte) []int32 {
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}
