package tokenizer

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// The pre-tokenizers that Train knows.
const (
	GPT2    = "gpt2"    // GPT-2 pattern
	SmolLM2 = "smollm2" // digits one by one, then the GPT-2 pattern
	Llama3  = "llama3"  // Llama 3 pattern
)

// Train learns a byte-level BPE vocabulary (Sennrich et al. 2016) of at most
// vocabSize tokens from texts and returns it as a tokenizer.json that [Load]
// and the Hugging Face library read. Ids are given to the special tokens
// first, then to the 256 bytes, then to the merges in order. Pairs that occur
// once are not merged, so that a small text gives a smaller vocabulary. The
// result depends on the arguments alone: of equally frequent pairs the one
// with the smaller ids goes first.
func Train(texts []string, vocabSize int, specials []string, pattern string) ([]byte, error) {
	pre, parts, err := trainPattern(pattern)
	if err != nil {
		return nil, err
	}
	if vocabSize < len(specials)+256 {
		return nil, fmt.Errorf("train tokenizer: %d tokens do not hold %d special tokens and 256 bytes", vocabSize, len(specials))
	}
	vocab := map[string]int32{}
	for _, s := range specials {
		if _, twice := vocab[s]; twice || s == "" {
			return nil, fmt.Errorf("train tokenizer: special token %q is empty or given twice", s)
		}
		vocab[s] = int32(len(vocab))
	}
	first := int32(len(vocab))
	alphabet := make([]string, 256)
	for i := range alphabet {
		alphabet[i] = string(byteRune(byte(i)))
	}
	slices.Sort(alphabet)
	tr := &trainer{first: first, pairs: map[[2]int32]*trainPair{}}
	for _, a := range alphabet {
		if _, twice := vocab[a]; twice {
			return nil, fmt.Errorf("train tokenizer: special token %q is one of the bytes", a)
		}
		vocab[a] = int32(len(vocab))
		tr.tokens = append(tr.tokens, a)
	}
	tr.addWords(countWords(texts, parts, specials), vocab)
	merges := tr.learn(vocabSize, vocab)
	return writeTrained(vocab, merges, specials, pre)
}

func trainPattern(name string) (pre any, steps []splitter, err error) {
	level := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	sequence := func(first any) any {
		return map[string]any{"type": "Sequence", "pretokenizers": []any{first, level}}
	}
	switch name {
	case GPT2:
		return level, []splitter{{scan: scanGPT2}}, nil
	case SmolLM2:
		digits := func(t *classTable, s string, i int) int { return scanDigits(t, s, i, true) }
		return sequence(map[string]any{"type": "Digits", "individual_digits": true}), []splitter{{scan: digits}, {scan: scanGPT2}}, nil
	case Llama3:
		level["use_regex"] = false
		scan, err := patternScanner(patternLlama3)
		return sequence(map[string]any{"type": "Split", "pattern": map[string]any{"Regex": patternLlama3}, "behavior": "Isolated", "invert": false}),
			[]splitter{{scan: scan}}, err
	}
	return nil, nil, fmt.Errorf("train tokenizer: pattern %q is not known; use %q, %q or %q", name, GPT2, SmolLM2, Llama3)
}

// countWords returns how often each pre-token occurs in texts, outside the
// special tokens.
func countWords(texts []string, steps []splitter, specials []string) map[string]int {
	t := &Tokenizer{raw: newMatcher(), normalized: newMatcher(), pre: steps}
	for i, s := range specials {
		t.raw.add(s, AddedToken{ID: int32(i), Content: s, Special: true})
	}
	counts := map[string]int{}
	for _, text := range texts {
		t.pieces(text, false, false, func(p piece) { counts[p.text]++ }, func(int, int, int32) {})
	}
	return counts
}

// A trainer holds the words and where each pair occurs in them.
type trainer struct {
	first  int32 // id of the first byte
	tokens []string
	words  []trainWord
	pairs  map[[2]int32]*trainPair
	queue  pairQueue
}

type trainWord struct {
	ids   []int32
	count int
}

type trainPair struct {
	ids   [2]int32
	count int
	words map[int32]bool // where it may occur
}

func (tr *trainer) addWords(counts map[string]int, vocab map[string]int32) {
	for _, s := range slices.Sorted(maps.Keys(counts)) {
		w := trainWord{count: counts[s], ids: make([]int32, len(s))}
		for i := range len(s) {
			w.ids[i] = vocab[string(byteRune(s[i]))]
		}
		tr.words = append(tr.words, w)
		tr.count(int32(len(tr.words)-1), 1)
	}
	for _, p := range tr.pairs {
		tr.queue = append(tr.queue, queued{p, p.count})
	}
	heap.Init(&tr.queue)
}

// count adds (sign +1) or takes away (-1) the pairs of a word.
func (tr *trainer) count(word int32, sign int) {
	w := tr.words[word]
	for i := range len(w.ids) - 1 {
		k := [2]int32{w.ids[i], w.ids[i+1]}
		p := tr.pairs[k]
		if p == nil {
			p = &trainPair{ids: k, words: map[int32]bool{}}
			tr.pairs[k] = p
		}
		p.count += sign * w.count
		if sign > 0 {
			p.words[word] = true
		}
	}
}

// learn merges the most frequent pair until the vocabulary is full.
func (tr *trainer) learn(vocabSize int, vocab map[string]int32) [][2]string {
	var merges [][2]string
	for len(vocab) < vocabSize && len(tr.queue) > 0 {
		q := heap.Pop(&tr.queue).(queued)
		if q.count != q.pair.count { // has changed since it was queued
			if q.pair.count > 0 {
				heap.Push(&tr.queue, queued{q.pair, q.pair.count})
			}
			continue
		}
		if q.count < 2 {
			break
		}
		left, right := tr.token(q.pair.ids[0]), tr.token(q.pair.ids[1])
		if _, known := vocab[left+right]; known { // by other merges, or a special token
			continue
		}
		id := int32(len(vocab))
		vocab[left+right] = id
		tr.tokens = append(tr.tokens, left+right)
		merges = append(merges, [2]string{left, right})
		tr.merge(q.pair, id)
	}
	return merges
}

func (tr *trainer) token(id int32) string { return tr.tokens[id-tr.first] }

// merge replaces a pair by id in all words and queues the pairs that arise.
func (tr *trainer) merge(p *trainPair, id int32) {
	fresh := map[[2]int32]bool{}
	for _, at := range slices.Sorted(maps.Keys(p.words)) {
		w := &tr.words[at]
		tr.count(at, -1)
		out := w.ids[:0]
		for i := 0; i < len(w.ids); i++ {
			if i+1 < len(w.ids) && w.ids[i] == p.ids[0] && w.ids[i+1] == p.ids[1] {
				out = append(out, id)
				i++
				continue
			}
			out = append(out, w.ids[i])
		}
		w.ids = out
		tr.count(at, 1)
		for i := range len(out) - 1 {
			if out[i] == id || out[i+1] == id {
				fresh[[2]int32{out[i], out[i+1]}] = true
			}
		}
	}
	delete(tr.pairs, p.ids)
	p.count = 0
	for k := range fresh {
		if n := tr.pairs[k]; n != nil {
			heap.Push(&tr.queue, queued{n, n.count})
		}
	}
}

// A queued pair with its count at that time.
type queued struct {
	pair  *trainPair
	count int
}

// pairQueue is a heap: most frequent first, then the smaller ids.
type pairQueue []queued

func (q pairQueue) Len() int      { return len(q) }
func (q pairQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q pairQueue) Less(i, j int) bool {
	if c := cmp.Compare(q[i].count, q[j].count); c != 0 {
		return c > 0
	}
	return slices.Compare(q[i].pair.ids[:], q[j].pair.ids[:]) < 0
}

// Push and Pop complete heap.Interface.
func (q *pairQueue) Push(x any) { *q = append(*q, x.(queued)) }
func (q *pairQueue) Pop() any   { x := (*q)[len(*q)-1]; *q = (*q)[:len(*q)-1]; return x }

func writeTrained(vocab map[string]int32, merges [][2]string, specials []string, pre any) ([]byte, error) {
	added := make([]AddedToken, len(specials))
	for i, s := range specials {
		added[i] = AddedToken{ID: int32(i), Content: s, Special: true}
	}
	lines := make([]string, len(merges)) // this form is read by old and new libraries
	for i, m := range merges {
		lines[i] = m[0] + " " + m[1]
	}
	return json.Marshal(map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil,
		"added_tokens": added, "normalizer": nil, "pre_tokenizer": pre, "post_processor": nil,
		"decoder": map[string]any{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model": map[string]any{
			"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": lines,
		},
	})
}
