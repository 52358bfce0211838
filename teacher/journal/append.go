package journal

import (
	"bytes"
	"fmt"
	"io"
)

// record appends a line and returns when it is on disk.
func (j *Journal) record(l line) error {
	b, err := l.encode()
	if err != nil {
		return fmt.Errorf("record an answer in %s: %w", j.path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if old, ok := j.entries[l.Key]; ok && l.Answer == nil && old.Refused == l.Refused {
		return nil // refused again
	}
	if j.failed != nil {
		return j.failed
	}
	if j.file == nil {
		return fmt.Errorf("record an answer in %s: the journal is closed", j.path)
	}
	if err := j.locked(func() error { return j.append(b) }); err != nil {
		j.failed = fmt.Errorf("record an answer in %s: %w", j.path, err)
		return j.failed
	}
	j.add(l)
	return nil
}

// writable is an error once an answer could not be recorded: the next would be
// paid for and lost too.
func (j *Journal) writable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// append writes b behind the last whole line. The file is locked.
func (j *Journal) append(b []byte) error {
	end, err := j.lastFeed()
	if err != nil {
		return err
	}
	if err := j.mend(end); err != nil {
		return err
	}
	if end, err = j.file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	_, err = j.file.Write(b)
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		if j.end == end { // nobody else appended
			j.end += int64(len(b))
		}
		return nil
	}
	// A full disk, or one that does not keep what it took: leave no line that
	// may be half there, in front of those of others.
	if undo := j.file.Truncate(end); undo != nil {
		err = fmt.Errorf("%w (and its beginning could not be removed: %w)", err, undo)
	}
	return err
}

// lastFeed returns the offset behind the last line feed, which is the size
// unless another process died while it wrote.
func (j *Journal) lastFeed() (int64, error) {
	end, err := j.file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1)
	for size := 1; end > 0; size = 4096 {
		from := max(0, end-int64(size))
		buf = append(buf[:0], make([]byte, end-from)...)
		if _, err := j.file.ReadAt(buf, from); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// mend makes the file end at end, the end of the last whole line, with a line
// feed. The file is locked.
func (j *Journal) mend(end int64) error {
	size, err := j.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size > end {
		if err := j.file.Truncate(end); err != nil {
			return fmt.Errorf("remove the torn last line of %s: %w", j.path, err)
		}
	}
	if end == 0 {
		return nil
	}
	last := make([]byte, 1)
	if _, err := j.file.ReadAt(last, end-1); err != nil {
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	// The last line is whole but for its line feed, which must be on disk before
	// anything follows it.
	if _, err := j.file.Write([]byte("\n")); err != nil {
		return fmt.Errorf("end the last line of %s: %w", j.path, err)
	}
	return j.file.Sync()
}

// locked runs f while no other process writes to the file.
func (j *Journal) locked(f func() error) error {
	unlock, err := lock(j.file)
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}
