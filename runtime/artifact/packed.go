package artifact

// PackedFile is the name of the JSON file of a Dataset of packed rows that says
// what they were packed with; its content is a [PackedManifest]. What was packed
// before there was one does not have it.
const PackedFile = "packed.json"

// A PackedManifest is the content of PackedFile.
type PackedManifest struct {
	// Tokens is a hash of what the ids in the rows stand for. Rows are good for
	// any model whose tokenizer gives the same.
	Tokens Digest `json:"tokens"`
	// Template is the SHA-256 of the chat template that conversations were
	// rendered with; nil when none was packed.
	Template *Digest `json:"chat_template,omitempty"`
	// Turns is a hash of the tokens in which a conversation was written; nil when
	// none was packed, or by a template that does not tell. A model with the same
	// template and another hash is asked in other tokens than the rows have.
	Turns *Digest `json:"chat_tokens,omitempty"`
	// Each says that documents of the same row (Packed.Rows) are turns of one conversation.
	Each bool `json:"each_turn,omitempty"`
}
