//go:build cuda

package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"pipe/model"
	"pipe/model/disk"
	"pipe/tensor"
)

// loadCommand measures what the bus carries from pinned memory, and how fast a
// model gets on the device from memory and from mapped files that are in memory.
func loadCommand(f *flag.FlagSet, args []string) error {
	name := f.String("model", "8b", "1b, 8b or tiny")
	base := f.String("base", "bf16", "type of the weights: bf16, nf4, q8_0, …")
	dir := f.String("dir", os.TempDir(), "where the file is put that is mapped")
	steps := f.Bool("steps", false, "measure what loading consists of as well")
	f.Parse(args)
	c, err := configOf(*name)
	if err != nil {
		return err
	}
	dt, err := baseOf(*base)
	if err != nil {
		return err
	}
	b, err := open()
	if err != nil {
		return err
	}
	defer b.Close()
	bus, err := pinned(b, 64<<20)
	if err := report(record{Side: "pipe", Name: "copy from pinned memory", Value: bus, Unit: "GB/s"}, "copy from pinned memory", err); err != nil {
		return err
	}
	weights := newCheckpoint(c, dt)
	if *steps {
		if err := loadSteps(b, weights); err != nil {
			return err
		}
	}
	for _, mapped := range []bool{false, true} {
		name := fmt.Sprintf("load %s %s", *name, *base)
		var src model.Source = weights
		if mapped {
			name += " from mapped files"
			files, err := mapFiles(*dir, weights)
			if err != nil {
				return err
			}
			defer files.close()
			src = files
		}
		weights.bytes = 0
		start := time.Now()
		d, err := model.Load(b.Backend, c, src, false)
		if err != nil {
			report(record{}, name, err)
			return err
		}
		s := time.Since(start).Seconds()
		rate := float64(weights.bytes) / s / 1e9
		if err := report(record{Side: "pipe", Name: name, Value: rate, Unit: "GB/s", Note: fmt.Sprintf("%.1f s, %.0f %% of the bus", s, 100*rate/bus)}, name, nil); err != nil {
			return err
		}
		d.Close()
	}
	return nil
}

// loadSteps measures what loading consists of, each by itself: memory for the weights, copies
// from ordinary memory into pinned memory by several goroutines, and both together with
// the copies to the device, into memory that is there.
func loadSteps(b device, weights *checkpoint) error {
	s := streamOf(b.Backend)
	rate := func(name string, bytes int, f func() error) error {
		start := time.Now()
		err := f()
		d := time.Since(start).Seconds()
		return report(record{Side: "pipe", Name: name, Value: float64(bytes) / d / 1e9, Unit: "GB/s", Note: fmt.Sprintf("%.3f s", d)}, name, err)
	}
	var sizes []int
	total := 0
	for _, name := range weights.Names() {
		dt, shape := weights.describe(name)
		sizes = append(sizes, dt.Bytes(elements(shape)))
		total += sizes[len(sizes)-1]
	}
	at := make([]uint64, len(sizes))
	err := rate(fmt.Sprintf("allocate %d tensors", len(sizes)), total, func() (err error) {
		for i, n := range sizes {
			if at[i], err = s.Alloc(n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = rate("free them", total, func() error {
		for _, p := range at {
			s.Free(p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	host, err := s.Pinned(64 << 20)
	if err != nil {
		return err
	}
	defer s.FreePinned(host)
	source := make([]byte, 1<<30)
	for i := range source {
		source[i] = byte(i)
	}
	for _, n := range []int{1, 2, 4, 8, 16} {
		err := rate(fmt.Sprintf("copy into pinned memory, %d at a time", n), len(source), func() error {
			var wg sync.WaitGroup
			part, room := len(source)/n, len(host)/n
			for i := range n {
				wg.Go(func() {
					from, to := source[i*part:(i+1)*part], host[i*room:(i+1)*room]
					for len(from) > 0 {
						from = from[copy(to, from):]
					}
				})
			}
			wg.Wait()
			return nil
		})
		if err != nil {
			return err
		}
	}
	dst, err := b.Alloc(tensor.U8, len(source))
	if err != nil {
		return err
	}
	defer b.Free(dst)
	for range 2 {
		err := rate("upload into memory that is there", len(source), func() error {
			b.UploadBytes(dst, source)
			return b.Sync()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pinned returns the GB a second that go from pinned memory to the device.
func pinned(b device, n int) (float64, error) {
	s := streamOf(b.Backend)
	host, err := s.Pinned(n)
	if err != nil {
		return 0, err
	}
	defer s.FreePinned(host)
	for i := range host {
		host[i] = byte(i)
	}
	t, err := newTimer(s, 10, 1<<20)
	if err != nil {
		return 0, err
	}
	dst, err := s.Alloc(n)
	if err != nil {
		return 0, err
	}
	defer s.Free(dst)
	ms, err := t.run(func(int) { s.Upload(dst, unsafe.Pointer(&host[0]), n) })
	return float64(n) / ms / 1e6, err
}

// mappedFiles is a checkpoint whose weights are mapped files: each weight is a
// mapping of its own, so that its pages are new, of a file that is in memory.
type mappedFiles struct {
	*checkpoint
	paths map[tensor.DType]string
	maps  []*disk.Mapping
}

func mapFiles(dir string, c *checkpoint) (*mappedFiles, error) {
	m := &mappedFiles{checkpoint: c, paths: map[tensor.DType]string{}}
	for dt, data := range c.buffers {
		path := filepath.Join(dir, fmt.Sprintf("bench-cuda-%d-%s", os.Getpid(), dt))
		m.paths[dt] = path
		if err := os.WriteFile(path, data, 0o600); err != nil {
			m.close()
			return nil, err
		}
	}
	return m, nil
}

// Weight implements model.Source.
func (m *mappedFiles) Weight(name string) (model.Weight, error) {
	w, err := m.checkpoint.Weight(name)
	if err != nil {
		return w, err
	}
	file, err := disk.Map(m.paths[w.DType])
	if err != nil {
		return w, err
	}
	m.maps = append(m.maps, file)
	// The same place of the file as of the buffer that it is a copy of.
	buf := m.buffers[w.DType]
	from := cap(buf) - cap(w.Data)
	w.Data = file.Data[from : from+len(w.Data)]
	return w, nil
}

func (m *mappedFiles) close() {
	for _, f := range m.maps {
		f.Close()
	}
	for _, p := range m.paths {
		os.Remove(p)
	}
}
