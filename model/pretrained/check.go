package pretrained

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipe/model"
	"pipe/model/bnb"
	"pipe/model/gguf"
	"pipe/model/safetensors"
	"pipe/text/chat"
)

// CheckWeights reports why the weights of the model at path cannot be used:
// there are none, a tensor is not what the configuration says, or it cannot be
// quantised as quantize, if not "", says. It reads the headers of the files only.
func CheckWeights(path, quantize string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		f, err := gguf.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return named(path, check(f.Config(), f, quantize))
	}
	b, err := read(filepath.Join(path, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return noConfig(path)
	} else if err != nil {
		return err
	}
	c, err := model.ParseConfig(b)
	if err != nil {
		return named(path, err)
	}
	f, err := safetensors.OpenDir(path)
	if errors.Is(err, safetensors.ErrNoWeights) {
		return fmt.Errorf("%w; only an sft with init = \"random\", which makes new ones, pack and mix can use it", err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return named(path, check(c, c.FromStored(bnb.Open(f)), quantize))
}

func check(c model.Config, src model.Source, how string) error {
	if how != "" {
		var err error
		if src, err = quantize(src, how); err != nil {
			return err
		}
	}
	return model.CheckWeights(c, src)
}

func named(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// CheckTemplate reports what is wrong with the syntax of a chat template, the
// text of the file name, and on which line. One without content, which the parser
// takes, is none.
func CheckTemplate(name, text string) error {
	if strings.TrimSpace(text) == "" {
		return fmt.Errorf("%s is empty, and would write nothing of a conversation: put a template there, or leave the attribute out to use the model's own", name)
	}
	_, err := chat.Parse(text)
	if syntax := (*chat.SyntaxError)(nil); errors.As(err, &syntax) {
		return fmt.Errorf("%s:%d: %s", name, syntax.Line, syntax.Reason)
	}
	return named(name, err)
}
