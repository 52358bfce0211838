package compare

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"pipe/runtime/artifact"
)

// A Night is one line of the history of a pipeline: what a nightly run measured
// and how it compared.
type Night struct {
	Time     time.Time `json:"time"` // when the run began, UTC
	Run      string    `json:"run"`
	Baseline string    `json:"baseline,omitempty"` // the run it was compared with; empty on the first night
	Verdict  string    `json:"verdict"`            // one line for people
	Exit     int       `json:"exit"`               // pipe's exit code
	// Metrics are those of the evals, by stage and name; of a night that failed
	// those that were measured.
	Metrics map[string]map[string]artifact.Metric `json:"metrics,omitempty"`
	// Outcomes are those of the metrics that were tested.
	Outcomes map[string]map[string]Outcome `json:"outcomes,omitempty"`
}

// A History is the file history/<name>.jsonl of a store, one line a night.
type History struct{ store, path string }

// OpenHistory returns the history of the pipeline of that name, which is a file
// name; see engine.PipelineName.
func OpenHistory(s *artifact.Store, name string) History {
	return History{s.Dir(), filepath.Join(s.Dir(), "history", filepath.Base(name)+".jsonl")}
}

// Append adds a night and flushes it to the disk. A line that was torn by a
// crash stays behind as it is, and the new one begins on its own.
func (h History) Append(n Night) (err error) {
	line, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	dir := filepath.Dir(h.path)
	if err := artifact.MakeDir(h.store, dir); err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	f, err := os.OpenFile(h.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("write the history: %w", err)
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if d, err := os.Stat(dir); err == nil && st.Size() == 0 {
		_ = f.Chmod(0o644 | d.Mode().Perm()&0o022) // who may write to the directory may append
	}
	line = append(line, '\n')
	if st.Size() > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], st.Size()-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(line); err != nil { // one write: two nights at once do not mix
		return err
	}
	return f.Sync()
}

// maxLine bounds a line: 5,000 metrics have about 1 MB.
const maxLine = 64 << 20

// Nights returns the nights, oldest first, and how many lines could not be read.
// Without a history there are none.
func (h History) Nights() (nights []Night, bad int, err error) {
	f, err := os.Open(h.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the history: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, long, err := readLine(r)
		if err != nil && err != io.EOF {
			return nil, bad, fmt.Errorf("read the history: %w", err)
		}
		var n Night
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0 && !long:
		case long || json.Unmarshal(line, &n) != nil || n.Run == "":
			bad++
		default:
			nights = append(nights, n)
		}
		if err == io.EOF {
			return nights, bad, nil
		}
	}
}

// readLine reads to the end of a line; of one that is too long it keeps nothing.
func readLine(r *bufio.Reader) (line []byte, long bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if long = long || len(line)+len(part) > maxLine; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		if err != bufio.ErrBufferFull {
			return line, long, err
		}
	}
}

// MetricsOf returns the metrics of the evals among the outputs of a run, those
// that can be read.
func MetricsOf(s *artifact.Store, run Outputs) map[string]map[string]artifact.Metric {
	out := map[string]map[string]artifact.Metric{}
	for addr, o := range run {
		if !measured(o, true) {
			continue
		}
		a, err := s.Open(o[metricsName].Digest)
		if err != nil {
			continue
		}
		var f artifact.MetricsFile
		if artifact.ReadJSON(a, artifact.MetricsName, &f) == nil {
			out[addr] = f.Metrics
		}
	}
	return out
}
