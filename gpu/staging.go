//go:build cuda

package gpu

import (
	"errors"
	"sync"
	"unsafe"

	"pipe/gpu/cux"
)

// staging copies data to the device through pinned memory of its own, so that the
// data may change as soon as upload returns. The driver does that too for memory
// that is not pinned, but not on every device: one that reads the host's memory
// itself may do so later.
type staging struct{ small, large ring }

// The sizes of buffers: two of smallBytes for data below largeData, and two of
// largeBytes for other data.
const (
	smallBytes = 256 << 10
	largeBytes = 16 << 20
	largeData  = 1 << 20
)

func (s *staging) upload(to *cux.Stream, dst uint64, data []byte) error {
	if len(data) < largeData {
		return s.small.upload(to, dst, data, smallBytes)
	}
	return s.large.upload(to, dst, data, largeBytes)
}

func (s *staging) close(on *cux.Stream) {
	s.small.close(on)
	s.large.close(on)
}

// A ring is two pinned buffers: one is filled while what was put in the other is
// on its way. Data from a mapped file is so read, copied and sent at the same time.
type ring struct {
	buf  [2][]byte
	sent [2]cux.Event // after all that lay in the buffer
	now  int          // the buffer that is filled, and how far
	at   int
	none bool // there is no memory for buffers
}

// upload copies data, of any length, through buffers of size bytes. Without memory
// for these it waits until the device has the data.
func (r *ring) upload(to *cux.Stream, dst uint64, data []byte, size int) error {
	if r.buf[1] == nil && !r.none {
		switch err := r.open(to, size); {
		case errors.Is(err, cux.ErrOutOfMemory):
			r.close(to)
			r.none = true
		case err != nil:
			return err
		}
	}
	if r.none {
		if err := to.Upload(dst, unsafe.Pointer(unsafe.SliceData(data)), len(data)); err != nil {
			return err
		}
		return to.Sync()
	}
	for len(data) > 0 {
		if r.at == size {
			if err := to.Record(r.sent[r.now]); err != nil {
				return err
			}
			r.now, r.at = 1-r.now, 0
			if err := r.sent[r.now].Wait(); err != nil {
				return err
			}
		}
		room := r.buf[r.now][r.at:]
		n := min(len(data), len(room))
		copyParallel(room[:n], data[:n])
		if err := to.Upload(dst, unsafe.Pointer(&room[0]), n); err != nil {
			return err
		}
		r.at = min(roundUp(r.at+n, 256), size)
		data, dst = data[n:], dst+uint64(n)
	}
	return nil
}

// open makes buffers and events.
func (r *ring) open(on *cux.Stream, size int) (err error) {
	for i := range r.buf {
		if r.sent[i], err = on.NewEvent(); err != nil {
			return err
		}
		if r.buf[i], err = on.Pinned(size); err != nil {
			r.sent[i].Close()
			return err
		}
	}
	return nil
}

func (r *ring) close(on *cux.Stream) {
	for i := range r.buf {
		if r.buf[i] != nil {
			r.sent[i].Close()
			on.FreePinned(r.buf[i])
		}
	}
	*r = ring{}
}

// copyParallel copies with several goroutines: one core does not fill the bus.
func copyParallel(dst, src []byte) {
	const part = 2 << 20
	if len(src) <= part {
		copy(dst, src)
		return
	}
	var wg sync.WaitGroup
	for lo := 0; lo < len(src); lo += part {
		hi := min(len(src), lo+part)
		wg.Go(func() { copy(dst[lo:hi], src[lo:hi]) })
	}
	wg.Wait()
}
