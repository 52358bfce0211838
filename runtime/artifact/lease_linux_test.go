package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestLeaseOfProcesses: the lease of a process of this machine is taken over at
// once when the process is gone, and never while it is there, even if it is
// suspended and its heart stands still.
func TestLeaseOfProcesses(t *testing.T) {
	s := testStore(t)
	k := Key{9}
	path := filepath.Join(s.Dir(), "leases", k.String())
	host, _ := os.Hostname()
	put := func(h leaseHolder, age time.Duration) {
		t.Helper()
		b, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, b, 0o666), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	taken := func() bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*leasePoll)
		defer cancel()
		release, err := s.Lease(ctx, k)
		if err == nil {
			release()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Skip(err)
	}
	defer child.Process.Kill()
	pid := child.Process.Pid
	holder := leaseHolder{host, processSpace(), pid, processStart(pid), "x"}
	if holder.Start == "" || holder.Space == "" {
		t.Fatalf("the process is not known: %+v", holder)
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	put(holder, time.Hour)
	if taken() || !LeaseHeld(path, time.Now()) {
		t.Error("the lease of a suspended process was taken")
	}
	reused := holder
	reused.Start = "1"
	put(reused, 0)
	if !taken() {
		t.Error("a process that got the id of a dead one holds its lease")
	}
	elsewhere := holder // its process cannot be seen from here
	elsewhere.Space, elsewhere.PID = "pid:[1]", 1<<22+1
	put(elsewhere, 0)
	if taken() {
		t.Error("the lease of a living process in another container was taken")
	}
	put(elsewhere, time.Hour)
	if !taken() {
		t.Error("a lease whose heart stopped was not taken")
	}
	// Killed, and not yet waited for by whoever started it.
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for processStart(pid) != "" {
		time.Sleep(time.Millisecond)
	}
	put(holder, 0)
	if !taken() {
		t.Error("the lease of a killed process was not taken at once")
	}
	child.Wait()
	put(holder, 0)
	if LeaseHeld(path, time.Now()) || !taken() {
		t.Error("the lease of a process that is gone was not taken at once")
	}
}
