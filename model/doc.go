// Package model runs and trains decoders of the Llama architecture and its kin on a
// [tensor.Backend].
//
// # Conventions
//
// Tensor names are those of Hugging Face checkpoints. Activations are [tokens,
// width]; the tokens of several documents lie end to end and segments keep
// them apart, so there is no padding anywhere. There is no tape: a layer
// states its gradient in Backward, next to Forward, and keeps what it needs in
// between. Parameter gradients accumulate; activations and their gradients
// are overwritten.
package model
