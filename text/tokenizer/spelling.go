package tokenizer

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
)

// Spelling returns a hash of what the ids that occur in rows stand for: two
// tokenizers give the same if each of these ids is the same token to both,
// whatever else they hold and however their files are written. An id that does
// not exist stands for nothing.
func (t *Tokenizer) Spelling(rows iter.Seq[[]int32]) (sum [sha256.Size]byte) {
	used := make([]bool, len(t.tokens))
	for ids := range rows {
		for _, id := range ids {
			if id < 0 {
				continue
			}
			for int(id) >= len(used) {
				used = append(used, make([]bool, int(id)+1-len(used))...)
			}
			used[id] = true
		}
	}
	h := sha256.New()
	for id, is := range used {
		if !is {
			continue
		}
		token := t.TokenString(int32(id))
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(id)))
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(token))))
		h.Write([]byte(token))
	}
	h.Sum(sum[:0])
	return sum
}
