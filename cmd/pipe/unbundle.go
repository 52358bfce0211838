package main

import (
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/bundle"
)

// storeBeside is where the store of a pipeline lies unless told otherwise.
func storeBeside(recipe string) string {
	if !isDir(recipe) {
		recipe = filepath.Dir(recipe)
	}
	return filepath.Join(recipe, ".pipe")
}

func isDir(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.IsDir()
}

// unpackBundle unpacks a bundle into a directory beside it, and returns the
// pipeline in it; any other path it returns as it is.
func unpackBundle(t *app, o *options, name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || strings.HasSuffix(name, ".hcl") || !bundle.Is(name) {
		return name, nil
	}
	dir := name
	for _, ext := range []string{".gz", ".tgz", ".tar"} {
		dir = strings.TrimSuffix(dir, ext)
	}
	if dir == name {
		dir += ".d"
	}
	l, err := bundle.Unpack(name, dir)
	if err != nil {
		return "", err
	}
	recipe := filepath.Join(dir, filepath.FromSlash(l.Recipe))
	beside, again := storeBeside(recipe), "pipe run "+recipe
	switch {
	case o.store != "":
		t.printf("%s --store names another store: what stages made and teachers answered lies in %s and is not used\n", t.errInk.paint(yellow, "warning:"), beside)
		again += " --store " + o.store
	case os.Getenv("PIPE_STORE") != "":
		again += " --store " + beside
		fallthrough
	default: // what came with it, whatever PIPE_STORE says
		o.store = beside
	}
	if vars := filepath.Join(dir, varsName); len(l.Files) > 0 {
		if _, err := os.Stat(vars); err == nil {
			o.varFiles = append(list{vars}, o.varFiles...)
			again += " --var-file " + vars
		}
	}
	t.printf("unpacked into %s; from now on: %s\n", dir, again)
	return recipe, nil
}
