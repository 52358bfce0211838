// Package embed turns texts into vectors whose cosines say how alike the texts
// are: by hashing their words and letters, by a table of token vectors, or by
// the hidden states of a language model.
package embed

import (
	"context"

	"pipe/stages/dedup/index"
)

// An Embedder embeds texts.
type Embedder interface {
	// Embed returns one row for each text, of length 1, or 0 for a text in
	// which there is nothing to compare. progress is called with the number
	// of texts done.
	Embed(ctx context.Context, texts []string, progress func(done int)) (index.Vectors, error)
	// Close frees what the embedder holds.
	Close() error
}
