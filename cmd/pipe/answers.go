package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pipe/tensor"
)

// answers adds the answers of the pipeline's teachers from the journals of the
// store, in whatever precision they answered, and nobody else's.
func (k *packer) answers() error {
	ids := map[string]bool{}
	for _, n := range k.prog.Nodes {
		if n.Teacher == nil {
			continue
		}
		id := n.Teacher.ModelID
		if id == "" && n.Teacher.Model != nil {
			id = n.Teacher.Model.Digest.String()
		}
		for _, p := range tensor.Precisions() {
			ids[id+tensor.PrecisionMark(p)] = true
		}
	}
	if len(ids) == 0 {
		return nil
	}
	journals, err := filepath.Glob(filepath.Join(k.opts.Store.Journals(), "*.jsonl"))
	if err != nil {
		return err
	}
	for _, j := range journals {
		out, err := k.tempFile()
		if err != nil {
			return err
		}
		defer out.Close()
		n, err := copyAnswers(out, j, ids)
		if err != nil {
			return fmt.Errorf("%s: %w", j, err)
		}
		if n > 0 {
			k.inStore["journals/"+filepath.Base(j)] = out.Name()
		}
	}
	return nil
}

// copyAnswers copies the lines of the teachers in ids as they are. A line that
// is not whole is one that a crash cut off.
func copyAnswers(w io.Writer, journal string, ids map[string]bool) (n int, err error) {
	f, err := os.Open(journal)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		b, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		var line struct {
			Teacher string `json:"teacher"`
		}
		if json.Unmarshal(b, &line) != nil || !ids[line.Teacher] {
			continue
		}
		if _, err := w.Write(b); err != nil {
			return n, err
		}
		n++
	}
}
