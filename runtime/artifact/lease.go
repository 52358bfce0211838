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
	leaseStale = 15 * time.Second // a lease not touched for so long is broken
	leasePoll  = 50 * time.Millisecond

	graveSuffix = ".broken" // of a lease that is being removed
)

type leaseHolder struct {
	Host  string `json:"host"`
	PID   int    `json:"pid"`
	Token string `json:"token"` // unique
}

// A lease is the file that says who runs an action.
type lease struct {
	s    *Store
	path string
	me   []byte // its content
}

// Lease waits until nobody else runs the action k, on this machine or another
// that shares the store, and claims it. A lease whose holder died is taken
// over. Leases save work and nothing else: publishing is idempotent, so a
// broken lease costs a second run and never damages anything.
func (s *Store) Lease(ctx context.Context, k Key) (release func(), err error) {
	if s.unmade != nil {
		return nil, s.Advise(fmt.Errorf("take lease: %w", s.unmade))
	}
	host, _ := os.Hostname()
	me, err := json.Marshal(leaseHolder{host, os.Getpid(), rand.Text()})
	if err != nil {
		return nil, err
	}
	l := &lease{s, s.leasePath(k), me}
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
		free, err := l.bury(host)
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
func (l *lease) bury(host string) (free bool, err error) {
	st, err := os.Stat(l.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), nil
	}
	content, readErr := os.ReadFile(l.path)
	if errors.Is(readErr, fs.ErrNotExist) {
		return true, nil
	}
	if time.Since(st.ModTime()) <= leaseStale {
		var h leaseHolder
		if readErr != nil || json.Unmarshal(content, &h) != nil { // another user's, or being written
			return false, nil
		}
		if h.Host != host || processAlive(h.PID) {
			return false, nil
		}
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
