//go:build !unix

package cpu

func mapPages(size int) []byte { return nil }

func unmapPages([]byte) {}
