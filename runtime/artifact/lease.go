package artifact

import (
	"context"
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
	leaseStale = 15 * time.Second // a lease not touched for so long is broken
	leasePoll  = 50 * time.Millisecond
)

type leaseHolder struct {
	Host string `json:"host"`
	PID  int    `json:"pid"`
}

// Lease waits until nobody else runs the action k, on this machine or another
// that shares the store, and claims it. A lease whose holder died is taken
// over. Leases save work and nothing else: publishing is idempotent, so a
// broken lease costs a second run and never damages anything.
func (s *Store) Lease(ctx context.Context, k Key) (release func(), err error) {
	path := filepath.Join(s.dir, "leases", k.String())
	host, _ := os.Hostname()
	me, err := json.Marshal(leaseHolder{host, os.Getpid()})
	if err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			_, err = f.Write(me)
			if err = errors.Join(err, f.Close()); err != nil {
				os.Remove(path)
				return nil, fmt.Errorf("take lease: %w", err)
			}
			return heartbeat(path), nil
		}
		if !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("take lease: %w", err)
		}
		if leaseBroken(path, host) {
			// Only one of those who see it broken may remove it: rename picks one.
			grave := fmt.Sprintf("%s.%d.broken", path, os.Getpid())
			if os.Rename(path, grave) == nil {
				os.Remove(grave)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(leasePoll):
		}
	}
}

// leaseBroken reports whether the lease's holder is dead: its process is gone
// (same host), or its heart stopped.
func leaseBroken(path, host string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	age := time.Since(st.ModTime())
	if age > leaseStale {
		return true
	}
	var h leaseHolder
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &h) != nil {
		return false // being written
	}
	return h.Host == host && !processAlive(h.PID)
}

func heartbeat(path string) (release func()) {
	stop := make(chan struct{})
	var once sync.Once
	go func() {
		t := time.NewTicker(leaseBeat)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-t.C:
				os.Chtimes(path, now, now)
			}
		}
	}()
	return func() {
		once.Do(func() {
			close(stop)
			os.Remove(path)
		})
	}
}
