package embed

import (
	"context"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/modeltest"
	"pipe/stages/dedup/index"
	"pipe/tensor/cpu"
)

func embed(t *testing.T, e Embedder, texts ...string) index.Vectors {
	t.Helper()
	done := 0
	v, err := e.Embed(context.Background(), texts, func(n int) { done = n })
	if err != nil {
		t.Fatal(err)
	}
	if v.Len() != len(texts) || done == 0 {
		t.Fatalf("%d rows for %d texts; %d done", v.Len(), len(texts), done)
	}
	for i := range v.Len() {
		if n := norm2(v.Row(i)); n != 0 && math.Abs(n-1) > 1e-5 {
			t.Errorf("row %d has the squared length %v", i, n)
		}
	}
	return v
}

func norm2(row []float32) (s float64) {
	for _, x := range row {
		s += float64(x) * float64(x)
	}
	return s
}

func TestHash(t *testing.T) {
	const text = "The committee shall publish its findings within thirty days of the final hearing."
	v := embed(t, Hash{Width: 512}, text, strings.ToUpper(text), strings.Replace(text, "thirty", "forty", 1),
		"Bananas ripen faster in a paper bag than on the kitchen counter.", "", " \n", text+" "+text, "日本語のテキスト", "日本語のテキスト。")
	for _, c := range []struct {
		name      string
		a, b      int
		low, high float64
	}{
		{"case", 0, 1, 0.999999, 1}, {"a word", 0, 2, 0.8, 0.95}, {"another text", 0, 3, -0.2, 0.3}, {"empty", 0, 4, 0, 0},
		{"twice", 0, 6, 0.95, 1}, {"no spaces", 7, 8, 0.7, 0.999},
	} {
		if got := v.Cosine(c.a, c.b); !(got >= c.low && got <= c.high) {
			t.Errorf("%s: cosine %.4f; must be between %v and %v", c.name, got, c.low, c.high)
		}
	}
	if norm2(v.Row(4)) != 0 || norm2(v.Row(5)) != 0 {
		t.Error("a text without words has a direction")
	}
}

// Features land where they do on every machine, whatever the number of
// processors.
func TestHashIsFixed(t *testing.T) {
	var runs [2]index.Vectors
	for i, procs := range []int{1, 4} {
		old := runtime.GOMAXPROCS(procs)
		runs[i] = embed(t, Hash{Width: 16}, "one two", strings.Repeat("three ", 50), "four")
		runtime.GOMAXPROCS(old)
	}
	if !reflect.DeepEqual(runs[0], runs[1]) {
		t.Error("four processors embed otherwise than one")
	}
	row := make([]float32, 8)
	Hash{Width: 8}.text(row, "ab")
	// The word, the pair (nothing, word) and the groups " ab ": three features.
	sum := float32(0)
	for _, x := range row {
		sum += float32(math.Abs(float64(x)))
	}
	if h := hash("ab"); h != 0x089c4407b545986a || sum != 3 && sum != 1 {
		t.Errorf("hash %#x, features %v", h, row)
	}
}

func TestUnits(t *testing.T) {
	got := units("Don\u2019t  PAY $3.50 \ufb01ne\u200b!")
	want := []string{"don", "\u2019", "t", "pay", "$", "3", ".", "50", "fine", "!"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestDecoder(t *testing.T) {
	b := cpu.New(0)
	defer b.Close()
	d, err := OpenDecoder(b, modeltest.Directory(t, true), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	v := embed(t, d, "one text", "", "another, longer text", "one text")
	if v.Cosine(0, 3) != 1 || norm2(v.Row(1)) != 0 {
		t.Errorf("equal texts have the cosine %v, the empty one the length %v", v.Cosine(0, 3), norm2(v.Row(1)))
	}
	means, err := d.decoder.Embed(context.Background(), [][]int32{d.model.Tokenizer.EncodePlain("another, longer text")}, model.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := index.Cosine(v.Row(2), means[0]); !(c > 0.99999) {
		t.Errorf("the vector is not the mean hidden state: cosine %v", c)
	}
	if _, err := OpenDecoder(b, t.TempDir(), "", ""); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("an empty folder: %v", err)
	}
}

// A text longer than the context (128 tokens) counts to its end: its vector is
// the mean over all tokens, each piece read on its own.
func TestDecoderReadsPastItsContext(t *testing.T) {
	b := cpu.New(0)
	defer b.Close()
	d, err := OpenDecoder(b, modeltest.Directory(t, true), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	start := strings.Repeat("the same beginning ", 7)[:128]
	x, y := start+strings.Repeat("0123456789", 30), start+strings.Repeat("zyxwvut!", 40)
	v := embed(t, d, start, x, "", y)
	if c := v.Cosine(1, 3); !(c < 0.99) {
		t.Errorf("texts that part after the context have the cosine %v", c)
	}
	ids := d.model.Tokenizer.EncodePlain(x)
	mean := make([]float32, v.Width)
	for i := range 4 { // 428 tokens: four pieces of 107
		m, err := d.decoder.Embed(context.Background(), [][]int32{ids[i*107 : (i+1)*107]}, model.ScoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for k := range mean {
			mean[k] += m[0][k]
		}
	}
	if c := index.Cosine(mean, v.Row(1)); len(ids) != 428 || !(c > 0.999999) {
		t.Errorf("cosine %v to the mean of the pieces of %d tokens", c, len(ids))
	}
	for _, c := range []struct {
		n, most int
		want    []int
	}{{0, 4, nil}, {1, 4, []int{1}}, {4, 4, []int{4}}, {5, 4, []int{2, 3}}, {9, 4, []int{3, 3, 3}}} {
		var got []int
		for _, p := range windows(make([]int32, c.n), c.most) {
			got = append(got, len(p))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%d ids in pieces of at most %d: %v; want %v", c.n, c.most, got, c.want)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (Hash{Width: 16}).Embed(ctx, []string{"a"}, func(int) {}); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}
