package artifact

// ModelFile is the name of the JSON file of a Model artifact that says what it
// is; its content is a [ModelManifest].
const ModelFile = "model.json"

// A ModelManifest is the content of ModelFile.
//
// An adapter artifact holds model.json with Base set, adapter_config.json and
// adapter_model.safetensors (PEFT names). A full-weight artifact holds
// model.json without Base and a Hugging Face directory: config.json,
// model.safetensors, tokenizer.json, tokenizer_config.json and so on.
type ModelManifest struct {
	// Base is the digest of the model block, or of the full-weight artifact,
	// that the adapter was trained over; zero for full weights.
	Base Digest `json:"base"`
	// Training is how the weights were made from those of a model block, first
	// stage first.
	Training []Training `json:"training,omitempty"`
}

// A Training is one stage that trained a model: its kind, and its settings by
// name, for people to read.
type Training struct {
	Kind     string            `json:"kind"`
	Settings map[string]string `json:"settings"`
}
