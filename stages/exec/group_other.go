//go:build !unix

package exec

import "os/exec"

// group leaves cmd alone: there are no process groups here, and the program
// itself is killed when the context is cancelled.
func group(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = cmd.Process.Kill()
	}
}
