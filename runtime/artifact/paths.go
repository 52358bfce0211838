package artifact

import "path/filepath"

// RecordPath returns where the record of the action k lies, or would lie.
func (s *Store) RecordPath(k Key) string { return s.recordPath(k) }

// Paths returns the manifest and the files of a, whose presence and sizes
// [Store.Open] checks.
func (a *Artifact) Paths() []string {
	dir := a.store.ObjectDir(a.digest)
	paths := []string{filepath.Join(dir, manifestName)}
	for _, f := range a.m.Files {
		paths = append(paths, filepath.Join(dir, filepath.FromSlash(f.Name)))
	}
	return paths
}

// ManifestFormat is the format of the manifests that this version writes and
// reads.
const ManifestFormat = 1
