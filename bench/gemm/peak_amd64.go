package main

import "golang.org/x/sys/cpu"

// fma256 and fma512 run n times twelve independent fused multiplications and
// additions of 8 or 16 lanes.
func fma256(n int)
func fma512(n int)

// fma runs about n multiplications and additions and returns how many, with the
// widest registers of the processor; 0 if it has none.
func fma(n int) int {
	switch {
	case cpu.X86.HasAVX512F:
		n = n/(12*16) + 1
		fma512(n)
		return n * 12 * 16
	case cpu.X86.HasFMA:
		n = n/(12*8) + 1
		fma256(n)
		return n * 12 * 8
	}
	return 0
}
