package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"
)

// An outcome is what one process did.
type outcome struct {
	killed  bool
	code    int
	took    time.Duration
	ran     []string          // addresses of the stages that it made
	cached  int               // stages that were up to date
	outputs map[string]string // digests by address and output
	running string            // a stage that had started and not ended
	stderr  string
}

// A process is pipe run --json on its way.
type process struct {
	cmd   *exec.Cmd
	start time.Time
	done  chan struct{} // closed when it has ended
	err   error         // of Wait
	mu    sync.Mutex
	out   outcome
	errs  bytes.Buffer
}

// start runs the recipe on a store.
func (h *Harness) start(store string) (*process, error) {
	args := append([]string{"run", h.Recipe.File, "--json", "--store", store}, h.Recipe.Flags...)
	p := &process{cmd: exec.Command(h.Pipe, args...), start: time.Now(), done: make(chan struct{}), out: outcome{outputs: map[string]string{}}}
	p.cmd.Dir = h.Dir
	p.cmd.Stderr = &p.errs
	lines, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		r := bufio.NewReader(lines)
		for {
			b, err := r.ReadBytes('\n')
			if err != nil {
				break
			}
			p.read(b)
		}
		p.err = p.cmd.Wait()
		p.out.took = time.Since(p.start)
	}()
	return p, nil
}

func (p *process) read(b []byte) {
	var e struct {
		Type, Stage, State string
		Outputs            map[string]string
	}
	if json.Unmarshal(b, &e) != nil || e.Type != "stage" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.State {
	case "start":
		p.out.running = e.Stage
	case "done", "cached":
		if e.State == "done" {
			p.out.ran = append(p.out.ran, e.Stage)
		} else {
			p.out.cached++
		}
		if p.out.running == e.Stage {
			p.out.running = ""
		}
		for name, d := range e.Outputs {
			p.out.outputs[e.Stage+"."+name] = d
		}
	}
}

// wait returns what the process did, once it has ended.
func (p *process) wait() (outcome, error) {
	<-p.done
	o := p.out
	o.stderr = p.errs.String()
	var exit *exec.ExitError
	switch {
	case p.err == nil:
	case errors.As(p.err, &exit):
		o.code, o.killed = exit.ExitCode(), exit.ExitCode() == -1
	default:
		return o, p.err
	}
	if !o.killed && o.code != 0 {
		return o, fmt.Errorf("pipe run exited with %d:\n%s", o.code, o.stderr)
	}
	return o, nil
}
