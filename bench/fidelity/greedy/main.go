// Command greedy continues a prompt with the most likely tokens and prints
// them with their log-probabilities as JSON, to be compared with other engines:
//
//	go run ./bench/fidelity/greedy -model DIR-or-GGUF [-adapter DIR] -prompt TEXT [-n 24]
//
// The prompt is used as it is; special tokens in it are parsed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/pretrained"
	"pipe/tensor/cpu"
)

func main() {
	path := flag.String("model", "", "a Hugging Face directory or a .gguf file")
	peft := flag.String("adapter", "", "a PEFT directory to run over the model")
	prompt := flag.String("prompt", "", "the text to continue")
	n := flag.Int("n", 24, "tokens to add")
	threads := flag.Int("threads", 0, "threads; 0: all processors")
	flag.Parse()
	if err := run(*path, *peft, *prompt, *n, *threads); err != nil {
		fmt.Fprintln(os.Stderr, "greedy:", err)
		os.Exit(1)
	}
}

func run(path, peft, prompt string, n, threads int) error {
	m, err := pretrained.Open(path)
	if err != nil {
		return err
	}
	defer m.Close()
	b := cpu.New(threads)
	defer b.Close()
	d, err := model.Load(b, m.Config, m.Weights, false)
	if err != nil {
		return err
	}
	defer d.Close()
	if peft != "" {
		if _, err := adapter.Load(d, peft); err != nil {
			return err
		}
	}
	ids := m.Tokenizer.Encode(prompt)
	var out model.Result
	req := model.Request{Prompt: ids, MaxTokens: n, StopIDs: m.EOS}
	err = d.Generate(context.Background(), []model.Request{req}, model.GenerateOptions{}, func(_ int, r model.Result) error {
		out = r
		return nil
	})
	if err != nil {
		return err
	}
	target := out.IDs
	if len(target) == 0 {
		target = m.EOS[:1]
	}
	scores, err := d.Score(context.Background(), []model.Continuation{{Context: ids, Target: target}}, model.ScoreOptions{})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"prompt_ids": ids, "ids": out.IDs, "text": m.Tokenizer.Decode(out.IDs), "logprobs": scores[0].LogP,
	})
}
