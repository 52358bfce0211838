//go:build cuda

package gpu

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"pipe/gpu/cux"
)

// A belt is a row of pinned buffers, used in turn, that carries much data: all cores
// fill some of them, piece by piece, while the device reads the others. Only the
// goroutine that calls upload speaks to the driver.
type belt struct {
	room []byte                 // the buffers
	sent [beltBuffers]cux.Event // after what lay in each
	next int                    // the buffer that is sent next,
	way  int                    // and how many before it may be on their way
	none bool                   // there is no memory for buffers
}

// The sizes suit a bus of 55 GB/s and 16 cores that copy 4 GB/s each when all do. The
// bus needs 38 µs for a buffer, beside which queuing it is little, and a core about 30
// for a piece: so long, at the end of an upload, cores wait for the last one. Until the
// next upload has filled a buffer the bus has those that are on their way, 190 µs.
// Pinning takes 0.6 ms a MiB, and what is in the processor's caches is soonest there:
// more buffers do not help.
const (
	beltBuffers = 8
	beltBytes   = 2 << 20   // of a buffer
	beltAhead   = 3         // buffers that are filled at least: three pieces for each core
	beltPiece   = 128 << 10 // from 1 MiB on Go copies past the caches
	beltPieces  = beltBytes / beltPiece
	beltCores   = 16
)

// upload copies data, of any length.
func (p *belt) upload(to *cux.Stream, dst uint64, data []byte) error {
	if p.room == nil && !p.none {
		switch err := p.open(to); {
		case errors.Is(err, cux.ErrOutOfMemory):
			p.none = true
		case err != nil:
			return err
		}
	}
	if p.none {
		return uploadPlain(to, dst, data)
	}
	return p.carry(to, dst, data)
}

// carry is upload when there are buffers.
func (p *belt) carry(to *cux.Stream, dst uint64, data []byte) error {
	first, pieces := p.next, ceil(len(data), beltPiece)
	move := func(i int) {
		at := (first+i/beltPieces)%beltBuffers*beltBytes + i%beltPieces*beltPiece
		copy(p.room[at:at+beltPiece], data[i*beltPiece:])
	}
	jobs, done := make(chan int, beltBuffers*beltPieces), make(chan int, beltBuffers*beltPieces) // never full
	var cores sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), beltCores, pieces) - 1 {
		cores.Go(func() {
			for i := range jobs {
				move(i)
				done <- i
			}
		})
	}
	defer cores.Wait() // then nobody reads data any more
	defer close(jobs)

	var left [beltBuffers]int // pieces of each buffer that are not copied yet
	for given, sent := 0, 0; sent*beltPieces < pieces; {
		for given*beltPieces < pieces && (given-sent < beltAhead || given-sent+p.way < beltBuffers) {
			i := (first + given) % beltBuffers
			if given-sent+p.way == beltBuffers { // i has been on its way for longest
				if err := p.sent[i].Wait(); err != nil {
					return err
				}
				p.way--
			}
			left[i] = min(beltPieces, pieces-given*beltPieces)
			for j := range left[i] {
				jobs <- given*beltPieces + j
			}
			given++
		}
		left[(first+copied(jobs, done, move)/beltPieces)%beltBuffers]--
		for ; sent < given && left[p.next] == 0; sent++ {
			at := sent * beltBytes
			if err := p.send(to, dst+uint64(at), min(len(data)-at, beltBytes)); err != nil {
				return err
			}
		}
	}
	return nil
}

// copied returns a piece that has been copied. If there is none it does not only wait,
// but copies one itself: a goroutine that waits may long be given no core.
func copied(jobs, done <-chan int, move func(int)) int {
	select {
	case i := <-done:
		return i
	default:
	}
	select {
	case i := <-done:
		return i
	case i := <-jobs:
		move(i)
		return i
	}
}

// send queues the copy of the next buffer, n bytes of it.
func (p *belt) send(to *cux.Stream, dst uint64, n int) error {
	if err := to.Upload(dst, unsafe.Pointer(&p.room[p.next*beltBytes]), n); err != nil {
		return err
	}
	if err := to.Record(p.sent[p.next]); err != nil {
		return err
	}
	p.next = (p.next + 1) % beltBuffers
	p.way++
	return nil
}

// open makes buffers and events.
func (p *belt) open(on *cux.Stream) error {
	room, err := on.Pinned(beltBuffers * beltBytes)
	if err != nil {
		return err
	}
	for i := range p.sent {
		if p.sent[i], err = on.NewEvent(); err != nil {
			for _, e := range p.sent[:i] {
				e.Close()
			}
			on.FreePinned(room)
			return err
		}
	}
	p.room = room
	return nil
}

func (p *belt) close(on *cux.Stream) {
	if p.room != nil {
		for _, e := range p.sent {
			e.Close()
		}
		on.FreePinned(p.room)
	}
	*p = belt{}
}
