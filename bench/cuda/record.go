package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// A record is a line of output: one thing that was measured. Those of peer.py
// are the same.
type record struct {
	Side  string         `json:"side"` // pipe, cublaslt or pytorch
	Name  string         `json:"name"`
	Value float64        `json:"value,omitempty"`
	Unit  string         `json:"unit,omitempty"`
	MS    float64        `json:"ms,omitempty"` // of one operation
	Note  string         `json:"note,omitempty"`
	Error string         `json:"error,omitempty"` // why there is no value
	More  map[string]any `json:"more,omitempty"`
}

func (r record) write(w io.Writer) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// table prints the records of files as lines.
func table(w io.Writer, paths []string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			var r record
			if json.Unmarshal(in.Bytes(), &r) != nil || r.Name == "" {
				continue // something else that the program printed
			}
			fmt.Fprintln(w, r)
		}
	}
	return nil
}

// String is a line of the table.
func (r record) String() string {
	s := fmt.Sprintf("%-8s %-44s ", r.Side, r.Name)
	if r.Error != "" {
		return s + "FAILED: " + r.Error
	}
	s += fmt.Sprintf("%9.4g %-9s", r.Value, r.Unit)
	if r.MS > 0 {
		s += fmt.Sprintf(" %9.4f ms", r.MS)
	}
	if r.Note != "" {
		s += " " + r.Note
	}
	return s
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// attempt calls f and returns its panic as an error: one kernel that is missing
// does not keep the others from being measured.
func attempt(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.Join(err, fmt.Errorf("%v", r))
		}
	}()
	return f()
}
