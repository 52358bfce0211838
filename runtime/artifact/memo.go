package artifact

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A memo is what an action measured that later actions need as well, such as
// what a base model scores that many tuned ones are compared with. It is found by
// a key of all that it depends on, and losing one costs time and nothing else.

func (s *Store) memoPath(k Key) string {
	h := k.String()
	return filepath.Join(s.dir, "memos", h[:2], h+".json")
}

// Memo reads the memo of k into v and reports whether there is one. One that is
// damaged is none.
func (s *Store) Memo(k Key, v any) bool {
	path := s.memoPath(k)
	var raw json.RawMessage
	if getJSON(path, &raw) != nil || len(raw) <= sumTail || !checkSum(raw) {
		return false
	}
	var m struct {
		Key   Key             `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	if json.Unmarshal(raw, &m) != nil || m.Key != k || json.Unmarshal(m.Value, v) != nil {
		return false
	}
	now := time.Now()
	os.Chtimes(path, now, now) // gc spares what was of use; a store that may only be read has no gc
	return true
}

// PutMemo keeps v as the memo of k.
func (s *Store) PutMemo(k Key, v any) error {
	b, err := json.Marshal(map[string]any{"key": k, "value": v})
	if err == nil {
		err = s.putFile(s.memoPath(k), addSum(b), 0o444, false)
	}
	if err != nil {
		return s.Advise(fmt.Errorf("memo %v: %w", k, err))
	}
	return nil
}

// sweepMemos removes memos that were of no use for as long as checkpoints are kept.
func (c *collector) sweepMemos() error {
	top := filepath.Join(c.dir, "memos")
	dirs, err := readDir(top)
	if err != nil {
		return err
	}
	var garbage []found
	for _, d := range dirs {
		list, err := readDir(filepath.Join(top, d.Name()))
		if err != nil {
			return err
		}
		for _, e := range list {
			st, err := e.Info()
			if err != nil || !strings.HasSuffix(e.Name(), ".json") || c.young(st.ModTime(), c.WorkGrace) {
				continue
			}
			garbage = append(garbage, found{"", []string{filepath.Join(top, d.Name(), e.Name())}, st.Size()})
		}
	}
	_, err = c.remove(garbage, &c.got.Memos)
	return err
}
