// Package tokenizer turns text into token ids and back: byte-level BPE and
// its relatives, read from a Hugging Face tokenizer.json or from the metadata
// of a GGUF file, with the same ids as the Hugging Face tokenizers library.
//
// # Pipeline
//
// Added tokens are cut out of the text first (leftmost-longest); the pieces
// between are normalised and split by the pre-tokenizer; BPE (Sennrich et al.
// 2016) merges the symbols of each split. Ids are int32, offsets are byte
// offsets into the text as given.
//
// # Invalid UTF-8
//
// A byte that is not part of valid UTF-8 belongs to no character class and is
// encoded as itself, so that byte-level tokenizers lose nothing; [Tokenizer.Decode]
// shows it as U+FFFD, [Tokenizer.DecodeBytes] gives it back. The Hugging Face
// library has no counterpart: its strings cannot hold such bytes.
package tokenizer
