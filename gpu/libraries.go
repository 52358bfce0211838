//go:build cuda

package gpu

import (
	"fmt"

	"pipe/gpu/dl"
)

// Libraries names the library of products that is installed, or says why there is
// none. Benchmarks compare the backend's own kernels with it, which compute all
// products.
func Libraries() (string, error) {
	version, path, err := dl.CublasLtVersion()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("cublasLt %s (%s)", version, path), nil
}
