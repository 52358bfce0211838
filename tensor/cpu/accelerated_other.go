//go:build !amd64

package cpu

// accelerated returns the fastest kernels of the processor, nil if those are
// the portable ones.
func accelerated(string) *kernels { return nil }
