package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"pipe/gpu"
	"pipe/runtime/engine"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

// A device is the backend that compute stages run on, opened when the first
// one needs it.
type device struct {
	name string
	why  string // it was chosen
	less bool   // a GPU was hoped for
	make func() (tensor.Backend, error)
	has  func(tensor.DType) error // why there is no such precision; nil: all are there

	mu     sync.Mutex
	opened tensor.Backend
}

// openDevice chooses the device for --device. It does not open a GPU: other
// programs could be using its memory while a run finds nothing to do.
func openDevice(flag string) (*device, error) {
	if err := cpu.CheckEnvironment(); err != nil {
		return nil, flagError{err}
	}
	return chooseDevice(flag)
}

// chooseDevice is openDevice whatever PIPE_CPU is.
func chooseDevice(flag string) (*device, error) {
	switch flag {
	case "auto", "cpu", "cuda":
	default:
		return nil, flagError{fmt.Errorf("--device %s: use auto, cpu or cuda", flag)}
	}
	if flag == "cpu" {
		return onCPU("--device cpu"), nil
	}
	info, err := gpu.Probe()
	switch {
	case err == nil:
		return &device{name: info.Name(), why: describe(info), has: info.HasPrecision, make: func() (tensor.Backend, error) {
			b, err := gpu.Open(gpu.Options{})
			if err != nil {
				return nil, fmt.Errorf("open %s: %w; --device cpu computes on the processor", info.Device, err)
			}
			if err := selfCheck(b); err != nil {
				b.Close()
				return nil, fmt.Errorf("%s does not compute what the processor does: %w; nothing is made with it: report this, and use --device cpu", info.Device, err)
			}
			return b, nil
		}}, nil
	case flag == "auto" && errors.Is(err, gpu.ErrNoCUDA):
		return onCPU("this program has no CUDA backend"), nil
	case flag == "auto":
		d := onCPU(err.Error())
		d.less = true
		return d, nil
	case errors.Is(err, gpu.ErrNoCUDA):
		return nil, flagError{errors.New("--device cuda: this program was built without a CUDA backend; use --device cpu, or build one with: make cuda")}
	}
	return nil, fmt.Errorf("--device cuda: %w", err)
}

func onCPU(why string) *device {
	b := cpu.New(0)
	return &device{name: b.Name(), why: why, opened: b}
}

// describe is what there is to say of a GPU in a line.
func describe(i gpu.Info) string {
	return fmt.Sprintf("%s, %s, compute capability %d.%d, %d multiprocessors, a driver of CUDA %s",
		i.Device, size(i.Memory), i.Major, i.Minor, i.SMs, i.Driver)
}

func (d *device) open() (tensor.Backend, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened == nil {
		b, err := d.make()
		if err != nil {
			return nil, err
		}
		d.opened = b
	}
	return d.opened, nil
}

func (d *device) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened != nil {
		d.opened.Close()
	}
}

// deviceFacts are what openDevice's choice follows from, as far as it can be
// told without starting the driver, which takes longer than all else that a run
// with nothing to do does.
func deviceFacts(flag string) []string {
	b := cpu.New(0)
	defer b.Close()
	facts := []string{b.Name()}
	if err := cpu.CheckEnvironment(); err != nil { // no run has had this one
		facts = append(facts, err.Error())
	}
	if flag == "cpu" || !gpu.Built {
		return facts
	}
	for _, v := range []string{"PIPE_CUDA_DRIVER", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} {
		facts = append(facts, v+"="+os.Getenv(v))
	}
	facts = append(facts, "switches="+gpu.Switches())
	if driver := os.Getenv("PIPE_CUDA_DRIVER"); driver != "" {
		facts = append(facts, engine.FileState(driver))
	}
	told, _ := filepath.Glob("/proc/driver/nvidia/gpus/*/information") // sorted
	for _, path := range append(told, "/proc/driver/nvidia/version") {
		text, err := os.ReadFile(path)
		facts = append(facts, fmt.Sprintf("%s %s %v", path, text, err == nil))
	}
	return facts
}
