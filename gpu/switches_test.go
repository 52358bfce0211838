package gpu

import "testing"

// What changes bits is in the name, and with it in keys; what does not, is not.
func TestNames(t *testing.T) {
	hopper, ampere := Info{Device: "a device", Major: 9, SMs: 132}, Info{Device: "a device", Major: 8, SMs: 108}
	for _, c := range []struct{ variable, value, hopper, ampere string }{
		{"PIPE_CUDA_SYNC", "1", "", ""},
		{"PIPE_CUDA_GRAPHS", "0", "", ""},
		{"PIPE_CUDA_WGMMA", "1", "", ""},
		{"PIPE_CUDA_WGMMA", "0", "+mma", ""},
	} {
		t.Setenv(c.variable, c.value)
		if got, want := hopper.Name(), "cuda:sm_90:132:3"+c.hopper; got != want {
			t.Errorf("%s=%s: got %s, want %s", c.variable, c.value, got, want)
		}
		if got, want := ampere.Name(), "cuda:sm_80:108:3"+c.ampere; got != want {
			t.Errorf("%s=%s: got %s, want %s", c.variable, c.value, got, want)
		}
	}
}
