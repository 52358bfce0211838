package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"pipe/teacher"
)

// A line is one recorded request: its answer, or why it was refused.
type line struct {
	Key     string          `json:"key"`
	Teacher string          `json:"teacher"`
	Request teacher.Request `json:"request"`
	Answer  *teacher.Answer `json:"answer,omitempty"`
	Refused string          `json:"refused,omitempty"`
}

// Key returns the name of a request to a teacher in journals: the SHA-256, in
// hexadecimal, of the JSON array of the teacher's ID and the request.
func Key(id string, r teacher.Request) (string, error) {
	b, err := marshal([]any{valid(id), clean(r)})
	if err != nil {
		return "", fmt.Errorf("name the request in the journal: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// clean returns r as it reads when it comes back from JSON.
func clean(r teacher.Request) teacher.Request {
	messages := make([]teacher.Message, len(r.Messages))
	for i, m := range r.Messages {
		messages[i] = teacher.Message{Role: valid(m.Role), Content: valid(m.Content)}
	}
	r.Messages = messages
	stop := make([]string, len(r.Stop))
	for i, s := range r.Stop {
		stop[i] = valid(s)
	}
	r.Stop = stop
	return r
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// What stands at both ends of every line. The checksum is of the bytes before
// sumMark: a line can be checked without knowing how its fields are written.
const (
	lineStart = `{"key":"`
	sumMark   = `,"sum":"`
	lineEnd   = `"}`
	sumLen    = 2 * sha256.Size
)

// encode returns the line with its checksum and a line feed.
func (l line) encode() ([]byte, error) {
	b, err := marshal(l)
	if err != nil {
		return nil, err
	}
	b = b[:len(b)-1] // the closing brace
	sum := sha256.Sum256(b)
	b = append(b, sumMark...)
	b = hex.AppendEncode(b, sum[:])
	return append(b, lineEnd+"\n"...), nil
}

// decode checks a line without its line feed, and reads it.
func decode(b []byte) (line, error) {
	var l line
	tail := len(sumMark) + sumLen + len(lineEnd)
	if len(b) < tail || !bytes.HasPrefix(b, []byte(lineStart)) {
		return l, errors.New("not a journal line")
	}
	body, rest := b[:len(b)-tail], b[len(b)-tail:]
	if !bytes.HasPrefix(rest, []byte(sumMark)) || !bytes.HasSuffix(rest, []byte(lineEnd)) {
		return l, errors.New("the line does not end with its checksum")
	}
	sum := sha256.Sum256(body)
	if hex.EncodeToString(sum[:]) != string(rest[len(sumMark):len(sumMark)+sumLen]) {
		return l, errors.New("the checksum does not match the line")
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, err
	}
	if key, err := Key(l.Teacher, l.Request); err != nil || key != l.Key {
		return l, errors.New("the key does not belong to the request")
	}
	if (l.Answer == nil) == (l.Refused == "") {
		return l, errors.New("the line needs either an answer or the reason of a refusal")
	}
	return l, nil
}

// torn reports whether b can be the beginning of a line that a crash cut off:
// its first bytes, then whatever the disk held. Anything else is not ours.
func torn(b []byte) bool {
	n := min(len(b), len(lineStart))
	return string(b[:n]) == lineStart[:n] || len(bytes.Trim(b, "\x00\n")) == 0
}

// marshal is json.Marshal without the escapes for HTML.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
