package gpu

import "os"

// What the environment switches when a device is opened, for who looks for a fault or
// measures: docs/cuda.md.
const (
	switchProfile = iota // print the time of each kernel on the device
	switchSync           // wait after each kernel, to tell which one failed
	switchMMA            // products of bfloat16 and attention as before sm_90a
	switchPlain          // steps that are repeated as others
)

var switches = [...]struct {
	variable, value string
	mark            string // of the backend's name: a switch with one changes bits
	major           int    // compute capability of the devices that it concerns; 0: all
}{
	switchProfile: {variable: "PIPE_CUDA_PROFILE", value: "1"},
	switchSync:    {variable: "PIPE_CUDA_SYNC", value: "1"},
	switchMMA:     {variable: "PIPE_CUDA_WGMMA", value: "0", mark: "+mma", major: 9},
	switchPlain:   {variable: "PIPE_CUDA_GRAPHS", value: "0"},
}

// on reports whether a switch is set.
func on(i int) bool { return os.Getenv(switches[i].variable) == switches[i].value }

// marks are what the switches that are set add to the name of a backend.
func marks(major int) (s string) {
	for i, w := range switches {
		if on(i) && (w.major == 0 || w.major == major) {
			s += w.mark
		}
	}
	return s
}

// Switches returns the marks that the environment gives to the names of devices.
func Switches() string { return marks(9) }
