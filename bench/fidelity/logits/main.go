// Command logits compares the logits of a Llama-architecture GGUF file in this
// module with those of transformers on the dequantised weights, at every
// position of prompts of several lengths:
//
//	go run ./bench/fidelity/logits -model MODEL.gguf -python PYTHON
//
// It runs each prompt alone and the short ones packed into one sequence, writes
// the logits to a temporary folder and runs compare.py on it. The exit status
// is 1 when any of them differs by more than -tolerance, or is a NaN.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"pipe/model"
	"pipe/model/pretrained"
	"pipe/tensor/cpu"
	"pipe/text/chat"
)

//go:embed compare.py
var compare []byte

type options struct {
	model, python, text string
	tolerance           float64
	threads             int
}

func main() {
	var o options
	flag.StringVar(&o.model, "model", "", "a .gguf file of a Llama-architecture model")
	flag.StringVar(&o.python, "python", "python3", "a Python with the packages of requirements.txt")
	flag.StringVar(&o.text, "text", "LICENSE", "a text file of which the long prompts are made")
	flag.Float64Var(&o.tolerance, "tolerance", 1e-3, "the largest absolute difference allowed")
	flag.IntVar(&o.threads, "threads", 0, "threads; 0: all processors")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "logits:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	m, err := pretrained.Open(o.model)
	if err != nil {
		return err
	}
	defer m.Close()
	prompts, err := prompts(m, o.text)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "logits")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := write(dir, m, prompts, o.threads); err != nil {
		return err
	}
	script := filepath.Join(dir, "compare.py")
	if err := os.WriteFile(script, compare, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, o.python, script, o.model, dir, strconv.FormatFloat(o.tolerance, 'g', -1, 64))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// A prompt is one sequence to compare.
type prompt struct {
	Name string  `json:"name"`
	IDs  []int32 `json:"ids"`
}

// longest is the length of the longest prompt in tokens, packed the longest
// that is packed with others.
const longest, packed = 600, 160

func prompts(m *pretrained.Model, textFile string) ([]prompt, error) {
	text, err := os.ReadFile(textFile)
	if err != nil {
		return nil, err
	}
	tok := m.Tokenizer
	all := []prompt{
		{"one token", tok.Encode("The")},
		{"a sentence", tok.Encode("The capital of France is Paris, and the capital of Italy is")},
		{"code", tok.Encode("func add(a, b int) int {\n\treturn a + b\n}\n\nfunc main() {\n\tfmt.Println(add(")},
		{"other scripts", tok.Encode("東京は日本の首都です。 Москва — столица. 👩‍👩‍👧‍👦 naïve café \u00a0\t  1234567")},
	}
	if m.Template != nil {
		text, err := m.Template.Text(chat.Input{AddGenerationPrompt: true, Special: m.Special, Messages: []chat.Message{
			{Role: "user", Content: "Which licence lets me sell a changed copy? Explain in two sentences."},
		}})
		if err != nil {
			return nil, fmt.Errorf("render the chat template: %w", err)
		}
		all = append(all, prompt{"a chat", tok.Encode(text)})
	}
	long := tok.Encode(string(text))
	for _, n := range []int{packed, longest} {
		if len(long) < n {
			return nil, fmt.Errorf("%s: %d tokens, need %d for the long prompt", textFile, len(long), n)
		}
		all = append(all, prompt{fmt.Sprintf("%d tokens of text", n), long[:n]})
	}
	if most := m.Config.MaxPositions; most < longest {
		return nil, fmt.Errorf("the model's context is %d tokens, need %d", most, longest)
	}
	return all, nil
}

// write runs each prompt alone, then the short ones packed into one sequence,
// and writes prompts.json and logits.f32 into dir.
func write(dir string, m *pretrained.Model, prompts []prompt, threads int) (err error) {
	b := cpu.New(threads)
	defer b.Close()
	d, err := model.Load(b, m.Config, m.Weights, false)
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := os.Create(filepath.Join(dir, "logits.f32"))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	p := model.NewPass(b)
	defer p.Close()
	var together model.Batch
	var done, short []prompt
	for _, q := range prompts {
		batch := whole(q.IDs)
		if err := logits(w, d, p, batch); err != nil {
			return fmt.Errorf("%s: %w", q.Name, err)
		}
		done = append(done, q)
		if len(q.IDs) <= packed {
			together.Join(batch)
			short = append(short, prompt{q.Name + ", packed", q.IDs})
		}
	}
	if err := logits(w, d, p, together); err != nil {
		return fmt.Errorf("packed prompts: %w", err)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	list, err := json.Marshal(append(done, short...))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "prompts.json"), list, 0o600)
}

// whole is a batch that scores every position of one sequence.
func whole(ids []int32) model.Batch {
	b := model.Batch{IDs: ids, Starts: []int32{0}, Targets: ids}
	for i := range ids {
		b.Rows = append(b.Rows, int32(i))
	}
	return b
}

func logits(w io.Writer, d *model.Decoder, p *model.Pass, b model.Batch) error {
	z, err := d.Logits(p, b)
	if err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, z)
}
