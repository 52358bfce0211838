// Package tiny is the model behind embedded://tiny: a Llama-architecture
// decoder of 1.1 million parameters with its own tokenizer, pretrained by
// pipelines/tiny/tiny.hcl with this program. It can look things up in its
// context and writes licence prose; it knows nothing else.
package tiny

import (
	"embed"
	"io/fs"
)

//go:embed files
var files embed.FS

// Files returns the model as a Hugging Face directory: config.json,
// model.safetensors, tokenizer.json and so on.
func Files() fs.FS {
	sub, err := fs.Sub(files, "files")
	if err != nil {
		panic(err) // the name is the one above
	}
	return sub
}
