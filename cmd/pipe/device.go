package main

import (
	"errors"
	"fmt"

	"pipe/tensor"
	"pipe/tensor/cpu"
)

// A device is the backend that compute stages run on, opened when the first
// one needs it.
type device struct {
	name   string
	why    string // it was chosen
	opened tensor.Backend
}

// openDevice chooses the device for --device.
func openDevice(flag string) (*device, error) {
	switch flag {
	case "auto", "cpu":
		b := cpu.New(0)
		why := "--device cpu"
		if flag == "auto" {
			why = "this program has no CUDA backend"
		}
		return &device{name: b.Name(), why: why, opened: b}, nil
	case "cuda":
		return nil, flagError{errors.New("--device cuda: this program was built without a CUDA backend; use --device cpu")}
	}
	return nil, flagError{fmt.Errorf("--device %s: use auto, cpu or cuda", flag)}
}

func (d *device) open() (tensor.Backend, error) { return d.opened, nil }

func (d *device) close() { d.opened.Close() }
