//go:build !cuda

package gpu

import "pipe/tensor"

// Built reports whether this build has the backend.
const Built = false

// Open returns ErrNoCUDA.
func Open(Options) (tensor.Backend, error) { return nil, ErrNoCUDA }

// Probe returns ErrNoCUDA.
func Probe() (Info, error) { return Info{}, ErrNoCUDA }

// Libraries returns ErrNoCUDA.
func Libraries() (string, error) { return "", ErrNoCUDA }
