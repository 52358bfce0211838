// Package driver has no Go code. Its directory holds the sources of libcuda.a,
// which takes the place of the CUDA driver when a program is linked and loads the
// true one when the program asks for it (src/load.c), and the header that
// gorgonia.org/cu needs with CUDA 13 (include/cuda.h). See gpu/build.sh.
package driver
