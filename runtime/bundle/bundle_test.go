package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pipe/runtime/artifact"
)

// sources writes files and returns their paths by name.
func sources(t testing.TB, files map[string]string) map[string]string {
	t.Helper()
	dir, out := t.TempDir(), map[string]string{}
	for name, text := range files {
		path := filepath.Join(dir, strconv.Itoa(len(out)))
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		out[name] = path
	}
	return out
}

var sample = map[string]string{"tree/p.hcl": "x = 1\n", "tree/docs/a.txt": strings.Repeat("a", 5000), "tree/run.sh": "#!", "tree/empty": "", "tree/" + strings.Repeat("long/", 60) + "ü": "long"}

func archive(t testing.TB, compress bool) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(&b, "tree/p.hcl", sources(t, sample), compress); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is unpacked is what was packed, and packing again makes the same bytes.
func TestRoundTrip(t *testing.T) {
	for _, compress := range []bool{false, true} {
		b := archive(t, compress)
		time.Sleep(time.Millisecond)
		if !bytes.Equal(b, archive(t, compress)) {
			t.Error("the same files make other bytes")
		}
		dir := t.TempDir()
		path, to := filepath.Join(dir, "b.tar"), filepath.Join(dir, "b")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if !Is(path) || Is(dir) || Is(filepath.Join(dir, "none")) {
			t.Error("Is")
		}
		l, err := Unpack(path, to)
		if err != nil || l.Recipe != "tree/p.hcl" {
			t.Fatal(l, err)
		}
		n := 0
		err = filepath.WalkDir(to, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			n++
			rel, _ := filepath.Rel(to, p)
			got, err := os.ReadFile(p)
			if want, ok := sample[filepath.ToSlash(rel)]; !ok || string(got) != want {
				t.Errorf("%s: got %.20q", rel, got)
			}
			if info, _ := d.Info(); info.Mode()&0o100 != 0 != strings.HasSuffix(rel, ".sh") {
				t.Errorf("%s has mode %v", rel, info.Mode())
			}
			return err
		})
		if err != nil || n != len(sample) {
			t.Errorf("%d files, %v", n, err)
		}
		if _, err := Unpack(path, to); err == nil || !strings.Contains(err.Error(), "is there already") {
			t.Errorf("unpacked over another: %v", err)
		}
	}
}

// A member is one of the hostile archives.
type member struct {
	tar.Header
	text string
}

func pack(t testing.TB, list any, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if list != nil {
		js, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		members = append([]member{{tar.Header{Name: ListName}, string(js)}}, members...)
	}
	for _, m := range members {
		m.Size = int64(len(m.text))
		if m.Typeflag == tar.TypeSymlink || m.Typeflag == tar.TypeLink || m.Typeflag == tar.TypeDir {
			m.Size = 0
		}
		m.Mode = 0o644
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if m.Size > 0 {
			if _, err := w.Write([]byte(m.text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Close()
	return b.Bytes()
}

func listed(name, text string) Entry {
	return Entry{Name: name, Size: int64(len(text)), SHA256: artifact.Digest(sum(text))}
}

func TestHostileArchives(t *testing.T) {
	list := func(files ...Entry) List { return List{format, "p.hcl", files} }
	p, ok := listed("p.hcl", "x"), member{tar.Header{Name: "p.hcl"}, "x"}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":        {nil, "not a bundle"},
		"no list":        {pack(t, nil, ok), `holds "p.hcl" where its list has "bundle.json"`},
		"a broken list":  {pack(t, nil, member{tar.Header{Name: ListName}, "{"}), "bundle.json"},
		"format":         {pack(t, List{9, "p.hcl", []Entry{p}}, ok), "it has format 9"},
		"no recipe":      {pack(t, List{format, "q.hcl", []Entry{p}}, ok), `it has no pipeline "q.hcl"`},
		"recipe outside": {pack(t, List{format, "../q.hcl", []Entry{p}}, ok), `"../q.hcl" is not the name`},
		"up":             {pack(t, list(listed("../x", ""), p), ok), `"../x" is not the name`},
		"absolute":       {pack(t, list(listed("/etc/x", ""), p), ok), `"/etc/x" is not the name`},
		"inner up":       {pack(t, list(listed("a/../../x", ""), p), ok), "is not the name"},
		"backslash":      {pack(t, list(listed(`a\..\x`, ""), p), ok), "is not the name"},
		"twice":          {pack(t, list(p, p), ok, ok), "out of order"},
		"unsorted":       {pack(t, list(p, listed("a", "")), ok), "out of order"},
		"itself":         {pack(t, list(listed(ListName, ""), p), ok), "lists itself"},
		"negative":       {pack(t, list(Entry{Name: "a", Size: -1}, p), ok), "has size -1"},
		"huge":           {pack(t, list(Entry{Name: "a", Size: 1 << 62}, Entry{Name: "b", Size: 1 << 62}, p), ok), "claim more than"},
		"link":           {pack(t, list(listed("a", ""), p), member{tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, ""}, ok), `"a" is not a plain file`},
		"hard link":      {pack(t, list(listed("a", ""), p), member{tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "p.hcl"}, ""}, ok), "not a plain file"},
		"device":         {pack(t, list(listed("a", ""), p), member{tar.Header{Name: "a", Typeflag: tar.TypeChar}, ""}, ok), "not a plain file"},
		"directory":      {pack(t, list(listed("a", ""), p), member{tar.Header{Name: "a", Typeflag: tar.TypeDir}, ""}, ok), "a"},
		"unlisted":       {pack(t, list(p), ok, member{tar.Header{Name: "q"}, "x"}), `holds "q", which its list does not name`},
		"missing":        {pack(t, list(p)), "ends before p.hcl"},
		"other name":     {pack(t, list(p), member{tar.Header{Name: "q"}, "x"}), `holds "q" where its list has "p.hcl"`},
		"other size":     {pack(t, list(p), member{tar.Header{Name: "p.hcl"}, "xy"}), "has 2 bytes, and its list says 1"},
		"other content":  {pack(t, list(p), member{tar.Header{Name: "p.hcl"}, "y"}), "is damaged"},
		"file and dir":   {pack(t, list(listed("a", ""), listed("a/b", ""), p), member{tar.Header{Name: "a"}, ""}, member{tar.Header{Name: "a/b"}, ""}, ok), "a/b"},
		"cut short":      {archive(t, false)[:6000], ""},
		"cut gzip":       {archive(t, true)[:300], ""},
		"not gzip":       {[]byte{0x1f, 0x8b, 0, 0}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "b.tar")
			if err := os.WriteFile(path, c.b, 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := Unpack(path, filepath.Join(dir, "to"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want %q", l, err, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("something was left: %v", left)
			}
		})
	}
}

// A small archive does not unpack to a large one.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	js, err := json.Marshal(List{format, "p.hcl", []Entry{{Name: "p.hcl", Size: 1 << 40}}})
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: ListName, Size: int64(len(js)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	w.Write(js)
	w.WriteHeader(&tar.Header{Name: "p.hcl", Size: 1 << 40, Mode: 0o644})
	w.Write(make([]byte, 1<<20))
	z.Close()
	if _, err := unpack(&b, int64(b.Len()), t.TempDir()); err == nil || !strings.Contains(err.Error(), "claim more than") {
		t.Errorf("got %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	files := sources(t, map[string]string{"p.hcl": "x"})
	for want, f := range map[string]func() error{
		"is not the name": func() error {
			_, err := Write(&bytes.Buffer{}, "p.hcl", map[string]string{"../x": files["p.hcl"], "p.hcl": files["p.hcl"]}, false)
			return err
		},
		"no pipeline": func() error { _, err := Write(&bytes.Buffer{}, "q", files, false); return err },
		"not a regular": func() error {
			_, err := Write(&bytes.Buffer{}, "p", map[string]string{"p": t.TempDir()}, false)
			return err
		},
		"no such file": func() error {
			_, err := Write(&bytes.Buffer{}, "p", map[string]string{"p": files["p.hcl"] + "x"}, false)
			return err
		},
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Whatever an archive holds, nothing is written beside the directory, and what
// is accepted is all that its list says.
func FuzzUnpack(f *testing.F) {
	var z bytes.Buffer
	if _, err := Write(&z, "p", sources(f, map[string]string{"p": "x"}), true); err != nil {
		f.Fatal(err)
	}
	f.Add(z.Bytes())
	f.Add(pack(f, List{format, "p", []Entry{listed("p", "x")}}, member{tar.Header{Name: "p"}, "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		outer := t.TempDir()
		dir := filepath.Join(outer, "dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := unpack(bytes.NewReader(b), int64(len(b)), dir)
		if left, _ := os.ReadDir(outer); len(left) != 1 {
			t.Fatalf("it wrote beside the directory: %v", left)
		}
		if err != nil {
			return
		}
		for _, e := range l.Files {
			got, err := artifact.HashFile(filepath.Join(dir, filepath.FromSlash(e.Name)))
			if err != nil || got != e.SHA256 {
				t.Errorf("%s: %v, %v", e.Name, got, err)
			}
		}
	})
}

func sum(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
