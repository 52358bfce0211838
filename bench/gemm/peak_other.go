//go:build !amd64

package main

// fma is unknown here.
func fma(int) int { return 0 }
