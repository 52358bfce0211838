package sft

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model/memory"
)

// TestTooLarge: a model that no machine holds is refused before anything is
// allocated, with what to change.
func TestTooLarge(t *testing.T) {
	dir := t.TempDir()
	config := fmt.Sprintf(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1536, "hidden_size": 2048,
		"intermediate_size": 8192, "num_hidden_layers": %d, "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_act": "silu",
		"max_position_embeddings": 2048, "rms_norm_eps": 0.00001, "tie_word_embeddings": true}`, 2000)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	s := block(func(s *spec) {
		s.Init, s.Adapter.Type, s.BatchSize = "random", "none", 64
	})
	_, err := runStage(t, s, dir, "", packedRows(300))
	var large *memory.TooLarge
	if !errors.As(err, &large) {
		t.Fatalf("error %v", err)
	}
	if large.Need.Bytes < 2e12 {
		t.Errorf("needs %d bytes", large.Need.Bytes)
	}
	for _, want := range []string{" GB of memory (", "optimizer state", "gradients", "weights", `optimizer = "adamw_8bit"`, "train an adapter instead"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q; want %q in it", err, want)
		}
	}
}
