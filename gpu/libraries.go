//go:build cuda

package gpu

import (
	"fmt"

	"pipe/gpu/dl"
)

// Libraries names the libraries that products are computed with, or says why it is
// the backend's own kernels alone.
func Libraries() (string, error) {
	version, path, err := dl.CublasLtVersion()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("cublasLt %s (%s)", version, path), nil
}
