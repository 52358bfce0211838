//go:build !cuda

package gpu

import "pipe/tensor"

// Open returns ErrNoCUDA.
func Open(Options) (tensor.Backend, error) { return nil, ErrNoCUDA }

// Probe returns ErrNoCUDA.
func Probe() (Info, error) { return Info{}, ErrNoCUDA }
