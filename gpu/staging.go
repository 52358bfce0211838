//go:build cuda

package gpu

import (
	"errors"
	"unsafe"

	"pipe/gpu/cux"
)

// staging copies data to the device through pinned memory of its own, so that the
// data may change as soon as upload returns. The driver does that too for memory
// that is not pinned, but not on every device: one that reads the host's memory
// itself may do so later.
type staging struct {
	small ring
	large belt // for data of largeData bytes and more
}

const largeData = 1 << 20

func (s *staging) upload(to *cux.Stream, dst uint64, data []byte) error {
	if len(data) < largeData {
		return s.small.upload(to, dst, data)
	}
	return s.large.upload(to, dst, data)
}

func (s *staging) close(on *cux.Stream) {
	s.small.close(on)
	s.large.close(on)
}

// uploadPlain is for data that cannot be staged: it waits until the device has them.
func uploadPlain(to *cux.Stream, dst uint64, data []byte) error {
	if err := to.Upload(dst, unsafe.Pointer(unsafe.SliceData(data)), len(data)); err != nil {
		return err
	}
	return to.Sync()
}

// A ring is two pinned buffers: one is filled, by one upload after the other, while
// what was put in the other is on its way.
type ring struct {
	buf  [2][]byte
	sent [2]cux.Event // after all that lay in the buffer
	now  int          // the buffer that is filled, and how far
	at   int
	none bool // there is no memory for buffers
}

const ringBytes = 256 << 10 // of a buffer

// upload copies data, of any length, through the buffers.
func (r *ring) upload(to *cux.Stream, dst uint64, data []byte) error {
	if r.buf[1] == nil && !r.none {
		switch err := r.open(to); {
		case errors.Is(err, cux.ErrOutOfMemory):
			r.close(to)
			r.none = true
		case err != nil:
			return err
		}
	}
	if r.none {
		return uploadPlain(to, dst, data)
	}
	for len(data) > 0 {
		if r.at == ringBytes {
			if err := to.Record(r.sent[r.now]); err != nil {
				return err
			}
			r.now, r.at = 1-r.now, 0
			if err := r.sent[r.now].Wait(); err != nil {
				return err
			}
		}
		room := r.buf[r.now][r.at:]
		n := copy(room, data)
		if err := to.Upload(dst, unsafe.Pointer(&room[0]), n); err != nil {
			return err
		}
		r.at = min(roundUp(r.at+n, 256), ringBytes)
		data, dst = data[n:], dst+uint64(n)
	}
	return nil
}

// open makes buffers and events.
func (r *ring) open(on *cux.Stream) (err error) {
	for i := range r.buf {
		if r.sent[i], err = on.NewEvent(); err != nil {
			return err
		}
		if r.buf[i], err = on.Pinned(ringBytes); err != nil {
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
