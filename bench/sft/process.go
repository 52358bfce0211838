package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

//go:embed peer.py
var peer []byte

func peerScript() (path string, err error) {
	f, err := os.CreateTemp("", "peer*.py")
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = f.Write(peer)
	return f.Name(), err
}

// A process takes steps when told: a number of them a line of its standard
// input, a lap as JSON a line of its output. Its first line says that it is
// ready.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	ready  string
	script string // to be removed
}

type hello struct {
	Ready string `json:"ready"`
}

func start(cmd *exec.Cmd) (p *process, err error) {
	p = &process{cmd: cmd}
	cmd.Stderr = os.Stderr
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var h hello
	if err := p.out.Decode(&h); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s did not start: %w", cmd.Path, err)
	}
	p.ready = h.Ready
	return p, nil
}

func (p *process) lap(steps int) (l lap, err error) {
	if _, err := fmt.Fprintln(p.in, steps); err != nil {
		return l, err
	}
	if err := p.out.Decode(&l); err != nil {
		return l, fmt.Errorf("the process ended: %w", err)
	}
	return l, nil
}

func (p *process) stop() {
	p.in.Close()
	p.cmd.Wait()
	if p.script != "" {
		os.Remove(p.script)
	}
}
