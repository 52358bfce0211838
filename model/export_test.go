package model

// Trace returns o with a function that sees the logits of each token of each
// request.
func (o GenerateOptions) Trace(f func(i int, logits []float32)) GenerateOptions {
	o.trace = f
	return o
}

// Chunk is chunk.
func (s *Segments) Chunk(to *Segments, chunk int32) { s.chunk(to, chunk) }
