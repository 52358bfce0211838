//go:build !cuda

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "cuda: this program was built without CUDA; build it with: bash bench/cuda/prepare.sh")
	os.Exit(1)
}
