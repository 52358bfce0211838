package cpu

import (
	"testing"

	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// tables returns the kernels of this machine.
func tables() map[string]*kernels {
	t := map[string]*kernels{"portable": portable()}
	if k := accelerated(); k != nil {
		t["accelerated"] = k
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
