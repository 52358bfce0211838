package data

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
)

var formats = []string{"text", "jsonl", "json", "csv", "tsv"}

// maxFile is the most that is read of a file that must be held as a whole
// (text, JSON array), after decompression.
const maxFile = 1 << 30

// A reader reads one file.
type reader struct {
	*spec
	path string // as the system knows it
	name string // as ids and messages name it

	at     string       // where the row that is yielded stands, for messages
	unused jsonl.Unused // counts keys of messages that no row holds; may be nil
}

// read calls yield for each row of the file, until it fails.
func (r *reader) read(ctx context.Context, yield func(artifact.Row) error) error {
	format, err := r.format()
	if err != nil {
		return err
	}
	f, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(strings.ToLower(r.name), ".gz") {
		z, err := gzip.NewReader(bufio.NewReader(f))
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		in = z
	}
	switch format {
	case "text":
		return r.text(in, yield)
	case "jsonl":
		return r.lines(ctx, in, yield)
	case "json":
		return r.array(in, yield)
	case "csv":
		return r.table(ctx, in, ',', yield)
	default:
		return r.table(ctx, in, '\t', yield)
	}
}

// format returns how the file is to be read.
func (r *reader) format() (string, error) {
	switch ext := strings.ToLower(path.Ext(r.name)); ext {
	case ".zst", ".bz2", ".xz", ".lz4", ".zip", ".7z":
		return "", fmt.Errorf("%s: of compressed files only those of gzip are read; unpack it, or compress it with gzip", r.name)
	case ".arrow", ".feather":
		return "", fmt.Errorf("%s: Arrow files cannot be read; convert it to JSON lines, for example with pandas: read_feather('%s').to_json('rows.jsonl', orient='records', lines=True)", r.name, path.Base(r.name))
	}
	if r.Format != "" {
		return r.Format, nil
	}
	name := strings.TrimSuffix(strings.ToLower(r.name), ".gz")
	switch ext := path.Ext(name); ext {
	case ".txt", ".md", ".markdown", ".text", ".rst":
		return "text", nil
	case ".jsonl", ".ndjson":
		return "jsonl", nil
	case ".json":
		return "json", nil
	case ".csv":
		return "csv", nil
	case ".tsv":
		return "tsv", nil
	case ".parquet":
		return "", fmt.Errorf("%s: Parquet files cannot be read; convert it to JSON lines, for example with DuckDB: COPY (FROM '%s') TO 'rows.jsonl'", r.name, path.Base(r.name))
	default:
		return "", fmt.Errorf("%s: the ending %q says nothing about the format; set format to one of %q", r.name, ext, formats)
	}
}

// clean applies the rules for bytes: a byte-order mark is dropped, CRLF and CR
// become LF, and bytes that are not UTF-8 are an error or U+FFFD.
func (r *reader) clean(b []byte, line int) (string, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(b) {
		if r.InvalidUTF8 != "replace" {
			at := invalidAt(b)
			line += bytes.Count(b[:at], []byte("\n"))
			return "", fmt.Errorf("%s:%d: byte %#02x is not UTF-8%s; convert the file, or set invalid_utf8 = \"replace\"", r.name, line, b[at], utf16Hint(b))
		}
		b = bytes.ToValidUTF8(b, []byte("\uFFFD"))
	}
	s := string(b)
	if strings.Contains(s, "\r") {
		s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	}
	return s, nil
}

func utf16Hint(b []byte) string {
	if bytes.HasPrefix(b, []byte("\xff\xfe")) || bytes.HasPrefix(b, []byte("\xfe\xff")) {
		return " (the file begins like UTF-16)"
	}
	return ""
}

// invalidAt returns the offset of the first byte that is not UTF-8.
func invalidAt(b []byte) int {
	for i := 0; i < len(b); {
		c, n := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

// whole reads a file that must be held as a whole.
func (r *reader) whole(in io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: is larger than %d MiB; cut it into several files, or use JSON lines", r.name, maxFile>>20)
	}
	return b, nil
}

// text yields the file as one document.
func (r *reader) text(in io.Reader, yield func(artifact.Row) error) error {
	b, err := r.whole(in)
	if err != nil {
		return err
	}
	s, err := r.clean(b, 1)
	if err != nil {
		return err
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Errorf("%s:%d: holds a zero byte: it is not a text file", r.name, 1+strings.Count(s[:i], "\n"))
	}
	if strings.TrimSpace(s) == "" {
		return fmt.Errorf("%s: holds no text", r.name)
	}
	r.at = r.name
	return yield(artifact.Row{ID: r.name, Text: s, Gold: -1, Source: r.name})
}

// lines yields a row for each line of JSON; empty lines are skipped.
func (r *reader) lines(ctx context.Context, in io.Reader, yield func(artifact.Row) error) error {
	buf := bufio.NewReaderSize(in, 1<<16)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := jsonl.Line(buf)
		if err != nil && err != io.EOF {
			return fmt.Errorf("%s:%d: %w", r.name, n, err)
		}
		last := err == io.EOF
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			at := fmt.Sprintf("%s:%d", r.name, n)
			o, err := r.object(line, n, at)
			if err != nil {
				return err
			}
			if err := r.record(o, at, yield); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

// object reads one JSON object, which begins on the given line. Messages name
// the place where.
func (r *reader) object(raw []byte, line int, where string) (map[string]any, error) {
	if !utf8.Valid(raw) {
		if _, err := r.clean(raw, line); err != nil {
			return nil, err
		}
		raw = bytes.ToValidUTF8(raw, []byte("\uFFFD"))
	}
	if at := jsonl.HalfAt(raw); at >= 0 && r.InvalidUTF8 != "replace" {
		return nil, fmt.Errorf("%s: the escape %s is half of a character: its other half is missing; write the row anew, or set invalid_utf8 = \"replace\"", where, raw[at:at+6])
	}
	o, err := jsonl.Object(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return o, nil
}

// record yields the row of an object. The place at is where the row comes from,
// and its id unless it has one.
func (r *reader) record(o map[string]any, at string, yield func(artifact.Row) error) error {
	row, err := jsonl.Row(o, r.Map, r.unused)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	row.Source = at
	if row.ID == "" {
		row.ID = at
	}
	r.at = at
	return yield(row)
}
