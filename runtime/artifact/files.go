package artifact

import (
	"os"
	"path/filepath"
)

// RecordFiles returns the files of the store that the action k and what it made
// consist of, the content of its outputs checked: another store that has them
// at the same places has the action.
func (s *Store) RecordFiles(k Key) ([]string, error) {
	r, err := s.Record(k)
	if err != nil {
		return nil, err
	}
	files := []string{s.recordPath(k)}
	if _, err := os.Stat(s.seriesPath(k)); err == nil {
		files = append(files, s.seriesPath(k))
	}
	for _, o := range r.Outputs {
		a, err := s.Open(o.Digest)
		if err != nil {
			return nil, err
		}
		dir, err := a.Dir()
		if err != nil {
			return nil, err
		}
		files = append(files, filepath.Join(dir, manifestName))
		for _, f := range a.Files() {
			files = append(files, filepath.Join(dir, filepath.FromSlash(f.Name)))
		}
	}
	return files, nil
}
