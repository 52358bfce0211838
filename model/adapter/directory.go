package adapter

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// NoModel says why dir is no model, and what to do, if it holds an adapter; nil
// if it does not.
func NoModel(dir string) error {
	f, err := os.Open(filepath.Join(dir, ConfigName))
	if err != nil {
		return nil
	}
	defer f.Close()
	base := ""
	var c struct {
		Base string `json:"base_model_name_or_path"`
	}
	if err := json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&c); err == nil && c.Base != "" {
		base = fmt.Sprintf(" over the base %.200q", c.Base) // anybody's text
	}
	return fmt.Errorf("%s is an adapter%s, and no model: %s", dir, base, MergeFirst)
}

// MergeFirst is what to do with an adapter where a model is needed.
const MergeFirst = "name a directory in which the adapter is merged into its base, as export writes it with formats = [\"safetensors\"], " +
	"or PEFT with merge_and_unload and save_pretrained of model and tokenizer"
