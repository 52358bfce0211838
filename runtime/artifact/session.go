package artifact

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pipe/runtime/fsys"
)

const (
	liveBeat  = 15 * time.Second // a process that uses the store touches its file this often
	liveStale = 10 * time.Minute // one that was not touched for so long is dead, unless its process is on this machine; one of a process of this machine that ended is dead at once
	liveGone  = 24 * time.Hour   // dead in any case where a process cannot be told from a later one with its number
)

// What the lines of a session's file name, each behind its kind.
const (
	noteKey    = "key "    // an action it looked up or runs
	noteObject = "object " // an artifact it publishes
	noteTemp   = "temp "   // a directory in tmp/
)

// A session is the file live/<name>: a first line that says who, then one line
// for each thing that the process uses. [Store.Collect] spares what a live
// session names. A line is appended under a shared lock, and Collect reads the
// lines and takes things away under the exclusive one, so that a thing is
// either named in time or found to be gone, and then made again.
type session struct {
	fs    fsys.FS
	path  string
	users int // how many Begin and have not ended

	mu    sync.Mutex
	file  fsys.File
	gate  *gate
	noted map[string]bool
	torn  bool // the file may end in half a line

	stop    chan struct{}
	beating sync.WaitGroup
}

// Begin says that this process uses the store until end is called: what it
// finds and makes from now on is safe from [Store.Collect], however old. It is
// an [ErrUnwritable] in a store that may only be read; reading is possible all
// the same.
func (s *Store) Begin() (end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		if s.session, err = s.newSession(); err != nil {
			return func() {}, s.Advise(fmt.Errorf("say that the store is in use: %w", err))
		}
	}
	u := s.session
	u.users++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if u.users--; u.users == 0 {
			s.session = nil
			u.end()
		}
	}), nil
}

func (s *Store) newSession() (*session, error) {
	if s.unmade != nil {
		return nil, s.unmade
	}
	who, err := json.Marshal(thisProcess())
	if err != nil {
		return nil, err
	}
	u := &session{fs: s.fs, path: filepath.Join(s.dir, "live", rand.Text()), noted: map[string]bool{}, stop: make(chan struct{})}
	f, err := s.open(u.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	u.file = f.File
	if _, err = u.file.Write(append(who, '\n')); err == nil {
		u.gate, err = openGate(s.dir, s.share)
	}
	if err != nil {
		u.file.Close()
		s.fs.Remove(u.path)
		return nil, err
	}
	u.beating.Go(u.beat)
	return u, nil
}

func (u *session) beat() {
	t := time.NewTicker(liveBeat)
	defer t.Stop()
	for {
		select {
		case <-u.stop:
			return
		case now := <-t.C:
			u.fs.Chtimes(u.path, now)
		}
	}
}

func (u *session) end() {
	close(u.stop)
	u.beating.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.file.Close()
	u.gate.close()
	u.fs.Remove(u.path)
}

// note appends lines to the session, if there is one. That it fails is no
// reason to stop: what is young is spared too, and what is gone is made again.
func (s *Store) note(lines ...string) {
	s.mu.Lock()
	u := s.session
	s.mu.Unlock()
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var b []byte
	for _, line := range lines {
		if !u.noted[line] {
			b = append(append(b, line...), '\n')
		}
	}
	if len(b) == 0 {
		return
	}
	if u.torn {
		b = append([]byte{'\n'}, b...)
	}
	unlock := u.gate.lock(shared)
	_, err := u.file.Write(b)
	unlock()
	u.torn = err != nil
	for _, line := range lines {
		u.noted[line] = err == nil
	}
}

// liveNotes returns the lines of all live sessions, and the files of dead ones.
func (s *Store) liveNotes(now time.Time) (notes map[string]bool, live int, dead []string, err error) {
	notes = map[string]bool{}
	dir := filepath.Join(s.dir, "live")
	list, err := readDir(dir)
	if err != nil {
		return nil, 0, nil, err
	}
	me := thisProcess()
	for _, e := range list {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			continue // it ended
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, 0, nil, err
		}
		who, rest, _ := bytes.Cut(b, []byte("\n"))
		if !inUse(who, me, now.Sub(info.ModTime())) {
			dead = append(dead, path)
			continue
		}
		live++
		for lines := bufio.NewScanner(bytes.NewReader(rest)); lines.Scan(); {
			notes[lines.Text()] = true
		}
	}
	return notes, live, dead, nil
}

// inUse reports whether the process that a session names is alive, or may be: its
// file was last touched so long ago.
func inUse(who []byte, me leaseHolder, age time.Duration) bool {
	var h leaseHolder
	if json.Unmarshal(who, &h) != nil {
		return age <= liveStale
	}
	switch h.judge(me) {
	case alive:
		return true
	case dead:
		return false
	}
	return age <= liveStale || age < liveGone && h.Host == me.Host && processAlive(h.PID)
}

// tempNames returns the directories of tmp/ that notes name.
func tempNames(notes map[string]bool) map[string]bool {
	names := map[string]bool{}
	for n := range notes {
		if name, ok := strings.CutPrefix(n, noteTemp); ok {
			names[name] = true
		}
	}
	return names
}
