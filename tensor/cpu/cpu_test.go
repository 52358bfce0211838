package cpu

import (
	"testing"

	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// tables returns the kernels of this machine.
func tables() map[string]*kernels {
	t := map[string]*kernels{"portable": portable()}
	for _, limit := range []string{"avx2", "avx512", ""} {
		if k := accelerated(limit); k != nil {
			t["up to "+limit] = k
		}
	}
	return t
}

func TestConformance(t *testing.T) {
	for name, k := range tables() {
		t.Run(name, func(t *testing.T) {
			tensortest.Run(t, func(testing.TB) tensor.Backend { return newBackend(2, k) })
		})
	}
}
