package lock

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

// digestOf hashes paths and digests, sorted by path.
func digestOf(files map[string]artifact.Digest) artifact.Digest {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
		h.Write([]byte(name))
		d := files[name]
		h.Write(d[:])
	}
	return artifact.Digest(h.Sum(nil))
}

// A Difference is one thing that is not what the lock file says.
type Difference struct {
	What   string   // "data docs/*.txt"
	Locked string   // what the lock file says; "" when it says nothing
	Now    string   // what there is
	Files  []string // which files, in words, of data that lists them
}

// String returns the difference as a paragraph.
func (d Difference) String() string {
	if d.Locked == "" {
		return d.What + ": not in the lock file; now " + d.Now
	}
	text := fmt.Sprintf("%s: locked %s, now %s", d.What, d.Locked, d.Now)
	const most = 10
	for i, f := range d.Files {
		if i == most {
			text += fmt.Sprintf("\n  and %d more files", len(d.Files)-most)
			break
		}
		text += "\n  " + f
	}
	return text
}

// Compare returns how what a pipeline uses now differs from what the lock file
// says of it. Entries that the pipeline does not use are no difference: several
// pipelines may share the file.
func (f *File) Compare(now *File) []Difference {
	var out []Difference
	differ := func(what, locked, now string, files ...string) {
		out = append(out, Difference{what, locked, now, files})
	}
	for _, m := range now.Modules {
		is := "commit " + m.Commit
		switch old := f.Module(m.Source); {
		case old == nil:
			differ("module "+m.Source, "", is)
		case old.Commit != m.Commit:
			differ("module "+m.Source, "commit "+old.Commit, is)
		case old.Digest != m.Digest:
			differ("module "+m.Source, "digest "+short(old.Digest), short(m.Digest)+" at the same commit: the fetched files were changed")
		}
	}
	for _, m := range now.Models {
		old := f.Model(m.Source)
		if old == nil {
			differ("model "+m.Source, "", m.identity())
		} else if *old != m {
			differ("model "+m.Source, old.identity(), m.identity())
		}
	}
	for _, d := range now.Data {
		old := f.Dataset(d.Source)
		if old == nil {
			differ("data "+d.Source, "", d.identity())
		} else if old.Digest != d.Digest || old.Files != d.Files {
			differ("data "+d.Source, old.identity(), d.identity(), changes(old.List, d.List)...)
		}
	}
	return out
}

func (m Model) identity() string {
	if m.Commit != "" {
		return "commit " + m.Commit
	}
	return "digest " + short(m.Digest)
}

func (d Data) identity() string {
	files := "files"
	if d.Files == 1 {
		files = "file"
	}
	return fmt.Sprintf("%d %s, digest %s", d.Files, files, short(d.Digest))
}

// changes says what became of files. Either list may be missing, being long.
func changes(old, now map[string]artifact.Digest) (out []string) {
	if old == nil || now == nil {
		return nil
	}
	names := maps.Clone(old)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, locked := old[name]
		is, here := now[name]
		switch {
		case !here:
			out = append(out, name+" is gone")
		case !locked:
			out = append(out, name+" is new")
		case was != is:
			out = append(out, name+" changed")
		}
	}
	return out
}

// Merge returns f with the entries of now that it lacks; with upgrade those of
// now win. What it says of other pipelines stays.
func (f *File) Merge(now *File, upgrade bool) *File {
	if f == nil {
		f = &File{}
	}
	return &File{
		Modules: merge(f.Modules, now.Modules, upgrade, func(m Module) string { return m.Source }),
		Models:  merge(f.Models, now.Models, upgrade, func(m Model) string { return m.Source }),
		Data:    merge(f.Data, now.Data, upgrade, func(d Data) string { return d.Source }),
	}
}

func merge[E any](old, now []E, upgrade bool, source func(E) string) []E {
	all := map[string]E{}
	for _, e := range old {
		all[source(e)] = e
	}
	for _, e := range now {
		if _, have := all[source(e)]; !have || upgrade {
			all[source(e)] = e
		}
	}
	var out []E
	for _, s := range slices.SortedFunc(maps.Keys(all), strings.Compare) {
		out = append(out, all[s])
	}
	return out
}
