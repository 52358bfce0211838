// Package chat renders conversations with the chat templates of models: the
// part of the Jinja2 language that they use, as the transformers library sets
// it up (trim_blocks, lstrip_blocks, Python's string methods and JSON), and
// the spans of what the assistant says, from which training takes its targets.
//
// A template is code that came with a model. It runs in an evaluator of its
// own that knows nothing but its input, and it is stopped when it takes too
// many steps, writes too much or recurses too deeply.
package chat
