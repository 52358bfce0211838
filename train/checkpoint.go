package train

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pipe/model"
	"pipe/model/safetensors"
	"pipe/tensor"
)

// Files of a checkpoint directory.
const (
	stateName   = "state.json"
	tensorsName = "tensors.safetensors"
	ckptPrefix  = "checkpoint-"
	tmpPrefix   = "tmp-"
)

// state is everything a run is, beside the tensors. Random numbers and the
// place in the data are functions of the step.
type state struct {
	ID      string               `json:"id"`
	Steps   int                  `json:"steps"`
	Updates int                  `json:"updates"`
	Skipped int                  `json:"skipped"`
	Row     int                  `json:"skipped_in_a_row"`
	Before  map[string][]float64 `json:"before,omitempty"`
	Series  []Point              `json:"series"`
}

// save writes a checkpoint of the present step under a temporary name, renames
// it, and removes the oldest ones.
func (r *run) save() error {
	if r.Dir == "" || r.res.Steps == 0 {
		return nil
	}
	name := fmt.Sprintf("%s%08d", ckptPrefix, r.res.Steps)
	final, tmp := filepath.Join(r.Dir, name), filepath.Join(r.Dir, tmpPrefix+name)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	err := r.write(tmp)
	if err == nil {
		err = os.Rename(tmp, final)
	}
	if err == nil {
		err = syncDir(r.Dir)
	}
	if err != nil {
		os.RemoveAll(tmp)
		return fmt.Errorf("write checkpoint of step %d: %w", r.res.Steps, err)
	}
	return r.prune()
}

func (r *run) write(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var ts []safetensors.Tensor
	r.eachTensor(func(name string, t *tensor.Tensor) {
		ts = append(ts, safetensors.Tensor{Name: name, DType: t.DType, Shape: t.Shape, Fill: func(w io.Writer) error {
			return download(w, r.opt.b, t)
		}})
	})
	if err := safetensors.Write(filepath.Join(dir, tensorsName), ts, nil); err != nil {
		return err
	}
	if err := r.opt.b.Sync(); err != nil {
		return err
	}
	data, err := json.Marshal(state{r.ID, r.res.Steps, r.opt.updates, r.res.Skipped, r.row, r.res.Before, r.res.Series})
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, stateName))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(dir))
}

// eachTensor visits parameters and moments.
func (r *run) eachTensor(visit func(name string, t *tensor.Tensor)) {
	for _, s := range r.opt.slots {
		visit("param."+s.name, s.p.Value)
		s.states(func(kind string, t *tensor.Tensor) { visit(kind+"."+s.name, t) })
	}
}

// checkpoints returns the names of the complete checkpoints, newest first.
func (r *run) checkpoints() ([]string, error) {
	es, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range es {
		if strings.HasPrefix(e.Name(), tmpPrefix+ckptPrefix) {
			os.RemoveAll(filepath.Join(r.Dir, e.Name())) // a run was killed here
		} else if strings.HasPrefix(e.Name(), ckptPrefix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}

func (r *run) prune() error {
	names, err := r.checkpoints()
	if err != nil {
		return err
	}
	for _, n := range names[min(len(names), max(r.Keep, 1)):] {
		// Renamed first: a directory is complete or does not count.
		tmp := filepath.Join(r.Dir, tmpPrefix+n)
		if err := os.Rename(filepath.Join(r.Dir, n), tmp); err != nil {
			return err
		}
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
	}
	return nil
}

// restore goes back to the newest checkpoint and reports whether there is one.
func (r *run) restore() (bool, error) {
	if r.Dir == "" {
		return false, nil
	}
	names, err := r.checkpoints()
	if err != nil || len(names) == 0 {
		return false, err
	}
	dir := filepath.Join(r.Dir, names[0])
	if err := r.read(dir); err != nil {
		return false, fmt.Errorf("go on from checkpoint %s: %w; remove it to start again", dir, err)
	}
	r.res.Resumed = r.res.Steps
	return true, nil
}

func (r *run) read(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s: %w", stateName, err)
	}
	if s.ID != r.ID || s.Steps > r.sched.Steps {
		return errors.New("it belongs to another run")
	}
	f, err := safetensors.Open(filepath.Join(dir, tensorsName))
	if err != nil {
		return err
	}
	defer f.Close()
	r.eachTensor(func(name string, t *tensor.Tensor) {
		if err != nil {
			return
		}
		var w model.Weight
		if w, err = f.Weight(name); err != nil {
			return
		}
		if w.DType != t.DType || !slices.Equal(w.Shape, t.Shape) {
			err = fmt.Errorf("tensor %s is %v of %s; the run has %v of %s", name, w.Shape, w.DType, t.Shape, t.DType)
			return
		}
		upload(r.opt.b, t, w.Data)
	})
	if err != nil {
		return err
	}
	r.opt.updates, r.row = s.Updates, s.Row
	r.res.Steps, r.res.Skipped, r.res.Before, r.res.Series = s.Steps, s.Skipped, s.Before, s.Series
	return r.opt.b.Sync()
}

// pieceLen is how many elements are moved at a time.
const pieceLen = 1 << 16

// pieces calls f for consecutive views of t, whose elements from at on are n.
func pieces(b tensor.Backend, t *tensor.Tensor, f func(v *tensor.Tensor, at, n int)) {
	for at := 0; at < t.Len(); at += pieceLen {
		n := min(pieceLen, t.Len()-at)
		f(b.View(t, at, n), at, n)
	}
}

// download writes the elements of t, F32 or U8, little-endian.
func download(w io.Writer, b tensor.Backend, t *tensor.Tensor) (err error) {
	size := min(t.Len(), pieceLen)
	buf := make([]byte, t.DType.Bytes(size))
	var f []float32
	if t.DType == tensor.F32 {
		f = make([]float32, size)
	}
	pieces(b, t, func(v *tensor.Tensor, _, n int) {
		if err != nil {
			return
		}
		buf := buf[:t.DType.Bytes(n)]
		if t.DType == tensor.U8 {
			b.DownloadBytes(buf, v)
		} else {
			b.Download(f[:n], v)
			for i, x := range f[:n] {
				binary.LittleEndian.PutUint32(buf[4*i:], math.Float32bits(x))
			}
		}
		_, err = w.Write(buf)
	})
	return err
}

// upload is the reverse of download.
func upload(b tensor.Backend, t *tensor.Tensor, data []byte) {
	var f []float32
	if t.DType == tensor.F32 {
		f = make([]float32, min(t.Len(), pieceLen))
	}
	pieces(b, t, func(v *tensor.Tensor, at, n int) {
		piece := data[t.DType.Bytes(at):t.DType.Bytes(at+n)]
		if t.DType == tensor.U8 {
			b.UploadBytes(v, piece)
			return
		}
		for i := range n {
			f[i] = math.Float32frombits(binary.LittleEndian.Uint32(piece[4*i:]))
		}
		b.Upload(v, f[:n])
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
