package artifact

import (
	"encoding/json"
	"testing"
	"time"
)

// A session counts while its process may be alive.
func TestWhoIsUsingTheStore(t *testing.T) {
	me := thisProcess()
	other, gone, old := me, me, me
	other.Host, gone.PID, old.Start = "elsewhere", 1<<30, "another"
	for _, c := range []struct {
		name string
		who  any
		age  time.Duration
		want bool
	}{
		{"this process", me, 48 * time.Hour, true},
		{"a process that ended", gone, time.Second, false},
		{"a process of another machine", other, liveStale, true},
		{"one whose heart stopped", other, liveStale + time.Second, false},
		{"not JSON yet", "{", time.Second, true},
		{"never to be JSON", "{", liveStale + time.Second, false},
	} {
		b, err := json.Marshal(c.who)
		if s, ok := c.who.(string); ok {
			b, err = []byte(s), nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := inUse(b, me, c.age); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if me.Start != "" {
		b, err := json.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		if inUse(b, me, time.Second) {
			t.Error("a process that took over the number of one that ended counts as that")
		}
	}
}
