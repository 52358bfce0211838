//go:build cuda

package driver

import (
	"testing"

	"gorgonia.org/cu"
)

// TestStarts shows that the program is linked with the trampolines: package cu
// exits the process when cuInit fails, and here it need not succeed.
func TestStarts(t *testing.T) {
	n, err := cu.NumDevices()
	t.Logf("%d devices, %v", n, err)
}
