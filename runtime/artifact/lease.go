package artifact

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	leaseBeat  = 2 * time.Second  // a holder touches its lease this often
	leaseStale = 15 * time.Second // a lease not touched for so long, as a waiter sees it, is broken
	leaseOld   = 10 * time.Minute // one that was last touched so long before is broken at once: clocks differ by less
	leasePoll  = 50 * time.Millisecond

	graveSuffix = ".broken" // of a lease that is being removed
)

type leaseHolder struct {
	Host  string `json:"host"`
	Space string `json:"pid_space,omitempty"` // of PID, on this host
	PID   int    `json:"pid"`
	Start string `json:"start,omitempty"` // of the process; "" where the system does not say
	Token string `json:"token"`           // unique
}

// thisProcess is this process as the holder of something.
func thisProcess() leaseHolder {
	host, _ := os.Hostname()
	pid := os.Getpid()
	return leaseHolder{host, processSpace(), pid, processStart(pid), rand.Text()}
}

// A verdict is what is known about the holder of a lease.
type verdict int

const (
	unknown verdict = iota // it is not of this machine, or cannot be told: its heart decides
	alive                  // also when it is suspended, and its heart with it
	dead
)

// judge looks for the process that holds a lease.
func (h leaseHolder) judge(me leaseHolder) verdict {
	switch {
	case h.Host != me.Host || h.Space != me.Space:
		return unknown
	case !processAlive(h.PID):
		return dead
	case h.Start == "" || me.Start == "":
		return unknown
	case processStart(h.PID) != h.Start: // another process has got its id
		return dead
	}
	return alive
}

// A lease is the file that says who runs an action.
type lease struct {
	s      *Store
	path   string
	holder leaseHolder
	me     []byte // holder as the file has it

	// What a waiter saw of another's heart. Its own clock counts: that of
	// another machine, or of a file server, may show another time.
	beat  time.Time     // the last
	still time.Duration // since then
	last  time.Time     // look
}

// stopped reports whether the heart of a lease that was last touched at beat
// stands still.
func (l *lease) stopped(beat, now time.Time) bool {
	if !beat.Equal(l.beat) {
		l.beat, l.still, l.last = beat, 0, now
		return now.Sub(beat) > leaseOld
	}
	l.still += min(now.Sub(l.last), time.Second) // no more: both may have been suspended
	l.last = now
	return l.still > leaseStale
}

// Lease waits until nobody else runs the action k, on this machine or another
// that shares the store, and claims it. A lease whose holder died is taken
// over. Leases save work and nothing else: publishing is idempotent, so a
// broken lease costs a second run and never damages anything.
func (s *Store) Lease(ctx context.Context, k Key) (release func(), err error) {
	if s.unmade != nil {
		return nil, s.Advise(fmt.Errorf("take lease: %w", s.unmade))
	}
	l, err := s.lease(s.leasePath(k))
	if err != nil {
		return nil, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ok, err := l.take()
		if err != nil {
			return nil, s.Advise(fmt.Errorf("take lease: %w", err))
		}
		if ok {
			return l.hold(), nil
		}
		free, err := l.bury()
		if err != nil {
			return nil, s.Advise(fmt.Errorf("take over the lease of a run that died: %w", err))
		}
		if free {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(leasePoll):
		}
	}
}

func (s *Store) leasePath(k Key) string { return filepath.Join(s.dir, "leases", k.String()) }

// lease returns the lease at path, as this process would hold it.
func (s *Store) lease(path string) (*lease, error) {
	holder := thisProcess()
	me, err := json.Marshal(holder)
	if err != nil {
		return nil, err
	}
	return &lease{s: s, path: path, holder: holder, me: me}, nil
}

// take claims the lease if nobody has it.
func (l *lease) take() (bool, error) {
	f, err := l.s.open(l.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.Write(l.me)
	if err = errors.Join(err, f.Close()); err != nil {
		l.s.fs.Remove(l.path)
		return false, err
	}
	return true, nil
}

// mine reports whether the lease still is the one that was taken.
func (l *lease) mine() bool {
	b, err := os.ReadFile(l.path)
	return err == nil && bytes.Equal(b, l.me)
}

// bury removes the lease of a holder that is dead: its process is gone (on this
// host), or its heart stopped. It reports whether the lease is free now.
func (l *lease) bury() (free bool, err error) {
	st, err := os.Stat(l.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), nil
	}
	content, readErr := os.ReadFile(l.path)
	if errors.Is(readErr, fs.ErrNotExist) {
		return true, nil
	}
	var h leaseHolder
	found := unknown
	if readErr == nil && json.Unmarshal(content, &h) == nil { // else it is another user's, or being written
		found = h.judge(l.holder)
	}
	if found == alive || found == unknown && !l.stopped(st.ModTime(), time.Now()) {
		return false, nil
	}
	grave := l.path + "." + rand.Text() + graveSuffix
	if err := l.s.fs.Rename(l.path, grave); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil // somebody else was faster
		}
		return false, err
	}
	defer l.s.fs.Remove(grave)
	if buried, err := os.Stat(grave); err == nil {
		same := buried.ModTime().Equal(st.ModTime())
		if b, err := os.ReadFile(grave); err == nil && readErr == nil {
			same = bytes.Equal(b, content)
		}
		if !same { // somebody else buried it first and this is the lease they took
			return l.s.fs.Link(grave, l.path) != nil, nil
		}
	}
	return true, nil
}

// hold keeps the lease alive until it is released.
func (l *lease) hold() (release func()) {
	stop := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		t := time.NewTicker(leaseBeat)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-t.C:
				if !l.mine() { // taken over, after a long sleep of this machine
					return
				}
				l.s.fs.Chtimes(l.path, now)
			}
		}
	})
	return sync.OnceFunc(func() {
		close(stop)
		beating.Wait()
		if l.mine() {
			l.s.fs.Remove(l.path)
		}
	})
}
