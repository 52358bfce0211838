package pretrained

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"pipe/text/chat"
	"pipe/text/tokenizer"
)

// TurnTokens returns a hash of the tokens that the model writes a conversation in:
// of one fixed conversation, rendered with its chat template and encoded as every
// conversation is. Of two models with the same template it differs where what the
// template writes, such as <|im_start|>, is a token to one and text to the other,
// which the ids alone do not tell: rows in which it is text have only ids that both
// spell alike. ok is false when there is no template or it does not render the
// conversation.
func (m *Model) TurnTokens() (sum [sha256.Size]byte, ok bool) {
	if m.Template == nil {
		return sum, false
	}
	// Digits are tokens of their own nearly everywhere: what is compared is what
	// the template writes around them.
	turns := []chat.Message{{Role: "system", Content: "1"}, {Role: "user", Content: "2"}, {Role: "assistant", Content: "3"}}
	in := chat.Input{Messages: turns, Special: m.Special}
	text, err := m.Template.Text(in)
	if err != nil { // there are templates that take no system
		in.Messages = turns[1:]
		if text, err = m.Template.Text(in); err != nil {
			return sum, false
		}
	}
	h := sha256.New()
	ids, _ := m.Tokenizer.EncodeSpans(text)
	for _, id := range ids {
		token := m.Tokenizer.TokenString(id)
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(id)))
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(token))))
		h.Write([]byte(token))
	}
	h.Sum(sum[:0])
	return sum, true
}

// said is what the assistant says in Sample: nothing that a template would write.
const said = "Certainly."

// Sample returns a short conversation in the chat template, which ends with the
// assistant's turn; "" when there is no template or it does not render it.
func (m *Model) Sample() string {
	if m.Template == nil {
		return ""
	}
	text, err := m.Template.Text(chat.Input{Special: m.Special, Messages: []chat.Message{
		{Role: "user", Content: "1"}, {Role: "assistant", Content: said},
	}})
	if err != nil {
		return ""
	}
	return text
}

// endOfTurn returns the token that the chat template writes behind what the
// assistant says, such as <|im_end|>; -1 if it writes none, or text.
func (m *Model) endOfTurn() int32 {
	text := m.Sample()
	at := strings.LastIndex(text, said)
	if at < 0 {
		return -1
	}
	at += len(said)
	ids, spans := m.Tokenizer.EncodeSpans(text)
	for i, id := range ids {
		if spans[i][1] <= at || strings.TrimSpace(text[max(at, spans[i][0]):spans[i][1]]) == "" {
			continue // what comes before, and white space, which some tokenizers add tokens for
		}
		if slices.ContainsFunc(m.Tokenizer.Added(), func(a tokenizer.AddedToken) bool { return a.ID == id }) {
			return id
		}
		return -1
	}
	return -1
}
