package jsonl

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"

	"pipe/runtime/artifact"
)

func turn(role, s string) []artifact.Message { return []artifact.Message{{Role: role, Content: s}} }

// What View writes is what Read reads.
func TestRoundTrip(t *testing.T) {
	rows := []artifact.Row{
		{ID: "a", Text: "text", Gold: -1, Source: "docs/a.txt", Meta: `{"licence":"MIT","year":2.50}`},
		{ID: "b", Messages: append(turn("user", "q"), turn("assistant", "a <b> \u2028")...), Gold: -1, Source: "a"},
		{ID: "c", Messages: turn("user", "q"), Chosen: turn("assistant", "g"), Rejected: turn("assistant", "b"), Gold: -1, Source: "x:1"},
		{ID: "d", Messages: turn("user", "q"), Choices: []string{"x", "y"}, Gold: 1, Source: "x:2"},
		{ID: "e", Messages: turn("user", "q"), Answer: "42", Gold: -1, Source: "x:3"},
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, r := range rows {
		if err := e.Encode(View(r)); err != nil {
			t.Fatal(err)
		}
	}
	var got []artifact.Row
	err := Read(context.Background(), &b, "rows", nil, func(r artifact.Row) error { got = append(got, r); return nil })
	if err != nil || !reflect.DeepEqual(got, rows) {
		t.Errorf("got %+v\nwant %+v\n%v", got, rows, err)
	}
}

func TestRead(t *testing.T) {
	for in, want := range map[string]string{
		"{\"text\":\"a\"}\n\n {\"id\":\"x\",\"text\":\"b\",\"n\":1}": "rows:1|a||rows:1 x|b|{\"n\":1}|rows:3",
		"":                    "",
		"{\"text\":\"a\"}\n{": "rows:2: broken JSON: it ends in the middle of the object",
		"[1]":                 "rows:1: is a list; each row must be a JSON object",
		"{\"text\":\"\xff\"}": "rows:1: the line is not UTF-8",
		"{\"n\":1}":           "rows:1: is no row",
		`{"text":"\ud83d"}`:   "rows:1: byte 10 of the line: the escape \\ud83d is half of a character",
	} {
		var got []string
		err := Read(context.Background(), strings.NewReader(in), "rows", nil, func(r artifact.Row) error {
			got = append(got, strings.Join([]string{r.ID, r.Text, r.Meta, r.Source}, "|"))
			return nil
		})
		if text := strings.Join(got, " "); err == nil && text != want || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %q, %v; want %q", in, text, err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Read(ctx, strings.NewReader("{}"), "rows", nil, nil); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	stop := func(artifact.Row) error { return io.ErrClosedPipe }
	if err := Read(context.Background(), strings.NewReader(`{"text":"a"}`), "rows", nil, stop); err != io.ErrClosedPipe {
		t.Errorf("a yield that fails: %v", err)
	}
}

// The most frequent keys come first; of many the others are counted.
func TestUnusedKeysAreListed(t *testing.T) {
	u := Unused{}
	for n := range 10 {
		for _, v := range []any{"x", nil, "", []any{}, map[string]any{}, false} {
			for range n / 5 {
				u.add(map[string]any{"role": "user", string(rune('a' + n)): v}, []string{"role"})
			}
		}
		u.add(map[string]any{"z\x1b": "x"}, nil)
	}
	if got, want := u.String(), `"z\x1b" (in 10 messages), "f" (in 2 messages), "g" (in 2 messages), "h" (in 2 messages), "i" (in 2 messages), "j" (in 2 messages)`; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	many := Unused{}
	for n := range 10 {
		many[string(rune('a'+n))] = 1
	}
	if got := many.String(); !strings.HasPrefix(got, `"a" (in 1 message), "b"`) || !strings.HasSuffix(got, `"h" (in 1 message), and 2 more`) {
		t.Errorf("got %s", got)
	}
	var none Unused
	none.add(map[string]any{"name": "x"}, nil) // counts nothing and does not fail
}

func TestHalfAt(t *testing.T) {
	for in, want := range map[string]int{
		`"a"`: -1, `"\ud83d\ude00"`: -1, `"\\ud83d"`: -1, `"\u00e9\n"`: -1, `"\uD83D\uDE00\uD83D\uDE00"`: -1, `"\u12`: -1, `"\`: -1,
		`"\ud83d"`: 1, `"\ude00"`: 1, `"\ud83d\u0041"`: 1, `"\ud83dx"`: 1, `"\ud83d\ud83d\ude00"`: 1, `"x\\\ud83d"`: 4, `"\uD83D\uDE00\uDE00"`: 13,
	} {
		if got := HalfAt([]byte(in)); got != want {
			t.Errorf("%s: got %d; want %d", in, got, want)
		}
	}
}
