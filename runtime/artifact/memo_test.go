package artifact

import (
	"math"
	"os"
	"reflect"
	"testing"
)

// A memo is read as it was written, and one that is damaged, or another's, is none.
func TestMemo(t *testing.T) {
	s := testStore(t)
	type value struct {
		Each []float64
		Name string
	}
	want := value{[]float64{0.1, 1.0 / 3, math.MaxFloat64, -0.0, 5e-324}, "a"}
	var got value
	if s.Memo(Key{1}, &got) {
		t.Fatal("a memo that nobody made")
	}
	if err := s.PutMemo(Key{1}, want); err != nil {
		t.Fatal(err)
	}
	if !s.Memo(Key{1}, &got) || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := s.PutMemo(Key{2}, math.NaN()); err == nil {
		t.Error("JSON has no NaN")
	}
	whole, err := os.ReadFile(s.memoPath(Key{1}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for _, damaged := range [][]byte{whole[:i], append(append([]byte{}, whole[:i]...), append([]byte{whole[i] ^ 1}, whole[i+1:]...)...)} {
			if err := s.putFile(s.memoPath(Key{1}), damaged, 0o444, false); err != nil {
				t.Fatal(err)
			}
			if s.Memo(Key{1}, &got) {
				t.Fatalf("read %q", damaged)
			}
		}
	}
	if err := s.putFile(s.memoPath(Key{3}), whole, 0o444, false); err != nil {
		t.Fatal(err)
	}
	if s.Memo(Key{3}, &got) {
		t.Error("the memo of another key")
	}
	if err := s.PutMemo(Key{1}, want); err != nil || !s.Memo(Key{1}, &got) {
		t.Errorf("a damaged memo stays: %v", err)
	}
}

// gc removes memos that nobody read for a while.
func TestCollectMemos(t *testing.T) {
	s := testStore(t)
	for k := range byte(2) {
		if err := s.PutMemo(Key{k}, k); err != nil {
			t.Fatal(err)
		}
	}
	older(t, s, 20*day)
	var k byte
	if !s.Memo(Key{1}, &k) || k != 1 {
		t.Fatal("no memo")
	}
	if got := collect(t, s, CollectOptions{Grace: day, WorkGrace: 30 * day}); got.Memos.N != 0 {
		t.Errorf("removed %+v", got.Memos)
	}
	if got := collect(t, s, CollectOptions{Grace: day, WorkGrace: 14 * day}); got.Memos.N != 1 || got.Memos.Bytes == 0 || got.Freed() < got.Memos.Bytes {
		t.Errorf("removed %+v", got.Memos)
	}
	if s.Memo(Key{0}, &k) || !s.Memo(Key{1}, &k) {
		t.Error("the wrong one was removed")
	}
}
