//go:build !unix

package disk

import "os"

func mapFile(f *os.File, size int) (*Mapping, error) { return read(f, size) }

func forget([]byte) {}
