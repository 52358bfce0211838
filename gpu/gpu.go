// Package gpu is the CUDA backend: every operation of [tensor.Backend] on an
// NVIDIA device. It exists behind the build tag cuda ("make cuda"); without it
// [Open] and [Probe] return [ErrNoCUDA].
//
// # How it works
//
// Operations queue kernels on one stream and return; [tensor.Backend].Sync and
// the downloads wait. The kernels are CUDA C (folder kernels), compiled ahead for
// sm_80 (sm_89) and sm_90a and embedded; each takes one struct, whose twin in Go has the
// same fields. There are no atomic additions where their order would show: the
// same device and binary give the same bits.
//
// What a kernel reads through indices is checked before it is queued: the
// backend keeps a copy of every I32 tensor that was uploaded.
//
// gorgonia.org/cu finds devices, holds the context and loads modules; package
// cux launches, moves memory and captures graphs. The driver is opened at run
// time: one binary starts on machines with and without it.
//
// # Testing without a device
//
// The same kernel files compile as C++ against an emulator (folder emu) into a
// library with the driver's entry points. The backend runs on it unchanged, and
// with it the conformance suite of package tensortest.
//
// docs/cuda.md says which file has what, and what the environment switches.
package gpu

import (
	"errors"
	"fmt"
	"strings"

	"pipe/tensor"
)

// ErrNoCUDA is what Open and Probe return in a build without the tag cuda.
var ErrNoCUDA = errors.New("this program was built without CUDA; build it with: make cuda")

// Options say which device to open, and how.
type Options struct {
	Device int // ordinal; 0 is the first
}

// Info describes a device.
type Info struct {
	Driver       string // version of CUDA that the driver supports, such as "13.0"
	Device       string // name
	Memory       int64  // bytes
	Major, Minor int    // compute capability
	SMs          int    // multiprocessors
}

// revision is raised when kernels compute other bits than before.
const revision = 3

// Name is that of the backend, such as "cuda:sm_90:132:3". It has what the bits of
// results depend on, as it is part of their keys: the architecture, the number of
// multiprocessors (sums are split so that all have work), the revision of the kernels,
// and marks of what the environment switches.
func (i Info) Name() string {
	name := fmt.Sprintf("cuda:sm_%d%d:%d:%d", i.Major, i.Minor, i.SMs, revision)
	if i.emulated() {
		name = "cuda:emulator"
	}
	return name + marks(i.Major)
}

// HasPrecision returns why products on the device cannot be in a precision; nil if
// they can.
func (i Info) HasPrecision(dt tensor.DType) error {
	if dt == tensor.FP8 && 10*i.Major+i.Minor < 89 {
		return fmt.Errorf("%s has compute capability %d.%d; 8.9 or newer multiplies numbers of 8 bits: take \"bf16\"", i.Device, i.Major, i.Minor)
	}
	return nil
}

// emulated reports whether the driver is that of folder emu.
func (i Info) emulated() bool { return strings.Contains(i.Device, "emulator") }
