package artifact

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
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
)

type leaseHolder struct {
	Host  string `json:"host"`
	Space string `json:"pid_space,omitempty"` // of PID, on this host
	PID   int    `json:"pid"`
	Start string `json:"start,omitempty"` // of the process; "" where the system does not say
	Token string `json:"token"`           // unique
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
	host, _ := os.Hostname()
	pid := os.Getpid()
	holder := leaseHolder{host, processSpace(), pid, processStart(pid), rand.Text()}
	me, err := json.Marshal(holder)
	if err != nil {
		return nil, err
	}
	l := &lease{path: filepath.Join(s.dir, "leases", k.String()), holder: holder, me: me}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ok, err := l.take()
		if err != nil {
			return nil, fmt.Errorf("take lease: %w", err)
		}
		if ok {
			return l.hold(), nil
		}
		if l.bury() {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(leasePoll):
		}
	}
}

// take claims the lease if nobody has it.
func (l *lease) take() (bool, error) {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.Write(l.me)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(l.path)
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
func (l *lease) bury() bool {
	st, err := os.Stat(l.path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	content, err := os.ReadFile(l.path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	var h leaseHolder
	found := unknown
	if json.Unmarshal(content, &h) == nil { // else it is being written
		found = h.judge(l.holder)
	}
	if found == alive || found == unknown && !l.stopped(st.ModTime(), time.Now()) {
		return false
	}
	grave := l.path + "." + rand.Text() + ".broken"
	if os.Rename(l.path, grave) != nil {
		return true // somebody else was faster
	}
	defer os.Remove(grave)
	if b, err := os.ReadFile(grave); err == nil && !bytes.Equal(b, content) {
		// Somebody else buried it first and this is the lease they took.
		return os.Link(grave, l.path) != nil
	}
	return true
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
				os.Chtimes(l.path, now, now)
			}
		}
	})
	return sync.OnceFunc(func() {
		close(stop)
		beating.Wait()
		if l.mine() {
			os.Remove(l.path)
		}
	})
}
