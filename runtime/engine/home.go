package engine

import (
	"os"
	"path/filepath"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// homeOf says where a pipeline in dir lies, which with its name says which
// pipeline of a store it is: the path from the store when that lies in dir, or
// beside dir or a directory above it, so that both may move together; else the
// absolute one. Whatever symbolic links lead there, it is the same.
func homeOf(s *artifact.Store, dir string) string {
	at, store := RealDir(dir), RealDir(s.Dir())
	if !holds(at, store) && !holds(filepath.Dir(store), at) {
		return at
	}
	way, err := filepath.Rel(store, at)
	if err != nil {
		return at
	}
	return filepath.ToSlash(way)
}

// holds reports whether path lies in dir, or is it.
func holds(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// dirAt is the absolute directory of a home.
func dirAt(s *artifact.Store, home string) string {
	if home == "" || filepath.IsAbs(home) {
		return home
	}
	return filepath.Join(RealDir(s.Dir()), filepath.FromSlash(home))
}

// RealDir is dir, absolute and without symbolic links, as far as it is there.
func RealDir(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return dir
}

// PipelineName is the name of the files that a store keeps about a pipeline. In a
// store that knows it by its absolute directory, as older versions of pipe have it,
// it goes by that.
func PipelineName(s *artifact.Store, prog *lang.Program) string {
	if abs, err := filepath.Abs(prog.Dir); err == nil {
		older := nameOf(abs + "\x00" + prog.Name)
		if _, err := os.Stat(filepath.Join(s.Dir(), headName(older))); err == nil {
			return older
		}
	}
	return nameOf(homeOf(s, prog.Dir) + "\x00" + prog.Name)
}
