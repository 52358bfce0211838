// Package journal is the write-ahead log of teachers' answers: a file of JSON
// lines, each with its checksum, on disk before anyone sees the answer. What
// was answered once is answered again from the file, so that a crash or a
// second run costs nothing.
package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/singleflight"

	"pipe/teacher"
)

// A Journal is a file of recorded answers. It is safe for concurrent use, and
// several processes may append to one file.
type Journal struct {
	path    string
	asking  singleflight.Group // by key
	mu      sync.Mutex
	file    file  // nil: read only, or closed
	end     int64 // of the lines that were taken in
	failed  error // of the first answer that could not be recorded
	entries map[string]line
}

// A file is what a journal needs of an os.File.
type file interface {
	io.ReaderAt
	io.Writer
	io.Seeker
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Sync() error
	Fd() uintptr
}

// maxLine bounds a line of a journal, in bytes. It is above what a teacher may
// answer to the longest prompt that anyone sends.
const maxLine = 128 << 20

// Open opens the journal at path for reading and appending, and creates it and
// its directory if there is none. A last line that a crash cut off is removed;
// any other line that is not whole is an error that names it.
func Open(path string) (*Journal, error) {
	return openOn(path, func(f *os.File) file { return f })
}

func openOn(path string, to func(*os.File) file) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &Journal{path: path, file: to(f), entries: map[string]line{}}
	err = j.locked(func() error {
		if err := settle(f); err != nil {
			return fmt.Errorf("open the journal: %w", err)
		}
		end, err := j.read(f, true)
		if err != nil {
			return err
		}
		j.end = end
		return j.mend(end)
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// settle makes the name of a new file outlast a power failure, and lets those
// write to it who may write to its directory.
func settle(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Size() > 0 || runtime.GOOS == "windows" {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	defer dir.Close()
	if over, err := dir.Stat(); err == nil && over.Mode().Perm()&0o022 != 0 {
		write := over.Mode().Perm() & 0o022
		_ = f.Chmod(st.Mode().Perm() | write | write<<1)
	}
	return dir.Sync()
}

// OpenReadOnly reads the journal at path. A last line that a crash cut off is
// passed over. The journal needs no Close. asks says that a teacher will be asked
// for what is not in it, which decides what the error about a damaged line advises.
func OpenReadOnly(path string, asks bool) (*Journal, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the journal of recorded answers: %w; give a file that was recorded, or ask a teacher with provider \"openai\" or \"local\"", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the journal of recorded answers: %w", err)
	}
	defer f.Close()
	j := &Journal{path: path, entries: map[string]line{}}
	if _, err := j.read(f, asks); err != nil {
		return nil, err
	}
	return j, nil
}

// Path returns the path of the file.
func (j *Journal) Path() string { return j.path }

// Len returns the number of requests recorded.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

// Close closes the file. Answers that arrive later are not recorded, and an
// error to those who wait for them.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file = nil
	return f.Close()
}

// read takes all lines in and returns the offset behind the last whole one. asks
// is as in OpenReadOnly.
func (j *Journal) read(f io.Reader, asks bool) (end int64, err error) {
	r := bufio.NewReaderSize(f, 1<<16)
	for n := 1; ; n++ {
		b, err := readLine(r)
		if err != nil {
			return 0, fmt.Errorf("%s:%d: %w", j.path, n, err)
		}
		if len(b) == 0 {
			return end, nil
		}
		l, err := decode(bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")))
		if err != nil {
			if _, more := r.Peek(1); more == io.EOF && torn(b) {
				// The line may be whole but for what should follow it.
				b = bytes.TrimRight(b, "\x00")
				if l, err := decode(b); err == nil {
					j.add(l)
					end += int64(len(b))
				}
				return end, nil
			}
			advice := "delete the line to have its request asked again"
			if !asks {
				advice = `take an undamaged copy of the file; nobody is asked for what the line said, unless it is deleted and the teacher block has provider "openai" or "local"`
			}
			return 0, fmt.Errorf("%s:%d: the journal is damaged: %w; %s", j.path, n, err, advice)
		}
		j.add(l)
		end += int64(len(b))
	}
}

// catchUp takes in what other processes have appended: they may have paid for an
// answer that this one is about to ask for.
func (j *Journal) catchUp() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil // whoever asks now cannot record it either
	}
	return j.locked(func() error {
		info, err := j.file.Stat()
		if err != nil || info.Size() <= j.end {
			return err
		}
		r := bufio.NewReaderSize(io.NewSectionReader(j.file, j.end, info.Size()-j.end), 1<<16)
		for {
			b, err := readLine(r)
			if err != nil {
				return fmt.Errorf("%s: %w", j.path, err)
			}
			if len(b) == 0 || b[len(b)-1] != '\n' {
				return nil // the end, or a line that its writer did not finish
			}
			l, err := decode(bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")))
			if len(b) > 1 && err != nil {
				return fmt.Errorf("%s: the journal is damaged at byte %d: %w", j.path, j.end, err)
			}
			if len(b) > 1 {
				j.add(l)
			}
			j.end += int64(len(b))
		}
	})
}

// readLine returns the next line with its line feed, which the last may lack,
// or nothing at the end. It holds no more than what was read.
func readLine(r *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		b = append(b, part...)
		switch {
		case len(b) > maxLine:
			return nil, fmt.Errorf("the line is longer than %d MiB: not a journal", maxLine>>20)
		case err == nil || err == io.EOF:
			return b, nil
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

// add keeps a line. The first answer to a request stands; it stands above a
// refusal, which may have been overcome.
func (j *Journal) add(l line) {
	if old, ok := j.entries[l.Key]; ok && (old.Answer != nil || l.Answer == nil) {
		return
	}
	l.Request = teacher.Request{} // the key stands for it
	j.entries[l.Key] = l
}

// lookup returns what is recorded under a key.
func (j *Journal) lookup(key string) (line, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l, ok := j.entries[key]
	return l, ok
}
