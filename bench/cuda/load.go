//go:build cuda

package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
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
	weights := newCheckpoint(c, dt)
	bus, err := measureBus(weights, *steps)
	if err := report(record{Side: "pipe", Name: "copy from pinned memory", Value: bus, Unit: "GB/s"}, "copy from pinned memory", err); err != nil {
		return err
	}
	for _, mapped := range []bool{false, true} {
		name := fmt.Sprintf("load %s %s", *name, *base)
		if mapped {
			name += " from mapped files"
		}
		if err := loadTwice(name, c, weights, mapped, *dir, bus); err != nil {
			report(record{}, name, err)
			return err
		}
	}
	return nil
}

// measureBus returns the GB a second that the bus carries, and reports steps.
func measureBus(weights *checkpoint, steps bool) (float64, error) {
	b, err := open()
	if err != nil {
		return 0, err
	}
	defer b.Close()
	if steps {
		if err := loadSteps(b, weights); err != nil {
			return 0, err
		}
	}
	return pinned(b, 64<<20)
}

// loadTwice loads on a device that has loaded nothing yet, so that all that Load
// prepares counts, and once more.
func loadTwice(name string, c model.Config, weights *checkpoint, mapped bool, dir string, bus float64) error {
	b, err := open()
	if err != nil {
		return err
	}
	defer b.Close()
	for _, again := range []string{"", ", again"} {
		s, err := loadOnce(b, c, weights, mapped, dir)
		if err != nil {
			return err
		}
		rate := float64(weights.bytes) / s / 1e9
		if err := report(record{Side: "pipe", Name: name + again, Value: rate, Unit: "GB/s", Note: fmt.Sprintf("%.2f s, %.0f %% of the bus", s, 100*rate/bus)}, name, nil); err != nil {
			return err
		}
	}
	return nil
}

// loadOnce returns the seconds that model.Load takes.
func loadOnce(b device, c model.Config, weights *checkpoint, mapped bool, dir string) (float64, error) {
	var src model.Source = weights
	if mapped {
		files, err := mapFiles(dir, weights)
		if err != nil {
			return 0, err
		}
		defer files.close()
		src = files
	}
	weights.bytes = 0
	start := time.Now()
	d, err := model.Load(b.Backend, c, src, false)
	s := time.Since(start).Seconds()
	if err == nil {
		d.Close()
	}
	return s, err
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
	for _, n := range []int{64 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20} {
		err := rate(fmt.Sprintf("copy into 24 MiB of it, pieces of %d KiB, 16 at a time", n>>10), len(source), func() error {
			var wg sync.WaitGroup
			var next atomic.Int64
			for range 16 {
				wg.Go(func() {
					for {
						at := int(next.Add(1)-1) * n
						if at >= len(source) {
							return
						}
						copy(host[at%(24<<20):][:n], source[at:])
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

	mu    sync.Mutex
	parts map[string]part
}

// A part is where a weight lies.
type part struct {
	file *disk.Mapping
	data []byte
}

var _ model.Forgetter = (*mappedFiles)(nil)

func mapFiles(dir string, c *checkpoint) (*mappedFiles, error) {
	m := &mappedFiles{checkpoint: c, paths: map[tensor.DType]string{}, parts: map[string]part{}}
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
	// The same place of the file as of the buffer that it is a copy of.
	buf := m.buffers[w.DType]
	from := cap(buf) - cap(w.Data)
	w.Data = file.Data[from : from+len(w.Data)]
	m.mu.Lock()
	m.parts[name] = part{file, w.Data}
	m.mu.Unlock()
	return w, nil
}

// Forget implements model.Forgetter, as files of weights do.
func (m *mappedFiles) Forget(name string) {
	m.mu.Lock()
	p := m.parts[name]
	m.mu.Unlock()
	p.file.Forget(p.data)
}

// InPlace implements model.Forgetter.
func (m *mappedFiles) InPlace(string) bool { return true }

func (m *mappedFiles) close() {
	for _, p := range m.parts {
		p.file.Close()
	}
	for _, p := range m.paths {
		os.Remove(p)
	}
}
