package artifact

import (
	"bytes"
	"fmt"
	"os"
)

// processSpace names the space that process ids of this process are of:
// containers may share a host name and have each their own.
func processSpace() string {
	s, _ := os.Readlink("/proc/self/ns/pid")
	return s
}

// processStart says when a process began, in clock ticks since the machine did:
// together with its id it names one process. It is "" when there is none, or
// only what is left of one that nobody has waited for.
func processStart(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// pid (name) state ...: the name may hold anything. The start is field 22.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return ""
	}
	return string(fields[19])
}
