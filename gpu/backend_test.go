//go:build cuda

package gpu

import (
	"os"
	"testing"

	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// device opens a backend, or skips the test where there is no device;
// PIPE_REQUIRE_CUDA=1 makes that a failure.
func device(t testing.TB) *Backend {
	t.Helper()
	b, err := open(Options{})
	switch {
	case err == nil:
	case os.Getenv("PIPE_REQUIRE_CUDA") == "1":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// Device is device, for the tests outside of the package.
var Device = device

func TestConformance(t *testing.T) {
	device(t)
	tensortest.Run(t, func(t testing.TB) tensor.Backend { return device(t) })
}
