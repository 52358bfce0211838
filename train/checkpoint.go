package train

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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
	"pipe/model/disk"
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
	Tensors string               `json:"tensors_sha256"` // of the file beside it
}

// sealed is state.json: a state with the hash of its bytes.
type sealed struct {
	SHA256 string          `json:"sha256"`
	State  json.RawMessage `json:"state"`
}

// errDamaged is wrapped by what is wrong with a checkpoint that was whole once.
var errDamaged = errors.New("the checkpoint is damaged")

// save writes a checkpoint of the present step and removes the oldest ones. A
// failure, such as a full disk, leaves the newest as it was.
func (r *run) save() error {
	if r.Dir == "" || r.res.Steps == 0 {
		return nil
	}
	err := r.publish()
	if err != nil && r.prune(1) == nil { // there may be room now
		err = r.publish()
	}
	if err != nil {
		err = fmt.Errorf("write the checkpoint of step %d: %w", r.res.Steps, err)
		if names, _ := r.checkpoints(); len(names) > 0 {
			err = fmt.Errorf("%w; %s is kept: mend that and run again to go on from it", err, filepath.Join(r.Dir, names[0]))
		}
		return err
	}
	return r.prune(max(r.Keep, 1))
}

// publish writes a checkpoint under a temporary name, which is its own: another
// process may be at the same step. Then it renames it.
func (r *run) publish() error {
	name := fmt.Sprintf("%s%08d", ckptPrefix, r.res.Steps)
	final, tmp := filepath.Join(r.Dir, name), filepath.Join(r.Dir, tmpPrefix+name+"-"+rand.Text())
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	err := r.write(tmp)
	if err == nil {
		err = os.Rename(tmp, final)
	}
	if err == nil {
		return syncDir(r.Dir)
	}
	os.RemoveAll(tmp)
	if _, there := os.Stat(final); there == nil {
		return nil // another process was faster: the same step has the same bytes
	}
	return err
}

func (r *run) write(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var ts []safetensors.Tensor
	r.eachTensor(func(name string, t *tensor.Tensor) {
		ts = append(ts, safetensors.Tensor{Name: name, DType: t.DType, Shape: t.Shape, Fill: func(w io.Writer) error {
			return download(w, r.opt.b, t)
		}})
	})
	sum := sha256.New()
	err := disk.Write(filepath.Join(dir, tensorsName), func(w io.Writer) error {
		return safetensors.WriteTo(io.MultiWriter(w, sum), ts, nil)
	})
	if err != nil {
		return err
	}
	if err := r.opt.b.Sync(); err != nil {
		return err
	}
	s, err := json.Marshal(state{r.ID, r.res.Steps, r.opt.updates, r.res.Skipped, r.row, r.res.Before, r.res.Series, hex.EncodeToString(sum.Sum(nil))})
	if err != nil {
		return err
	}
	data, err := json.Marshal(sealed{hashOf(s), s})
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
		visit("param."+s.name, s.W)
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

// prune removes all but the newest keep checkpoints.
func (r *run) prune(keep int) error {
	names, err := r.checkpoints()
	if err != nil {
		return err
	}
	for _, n := range names[min(len(names), keep):] {
		if err := r.remove(n); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes a checkpoint. It is renamed first: a directory of that name is
// complete.
func (r *run) remove(name string) error {
	tmp := filepath.Join(r.Dir, tmpPrefix+name+"-"+rand.Text())
	if err := os.Rename(filepath.Join(r.Dir, name), tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(tmp)
}

// restore goes back to the newest checkpoint and reports whether there is one.
// One that is damaged is removed, and the one before it counts.
func (r *run) restore() (bool, error) {
	if r.Dir == "" {
		return false, nil
	}
	names, err := r.checkpoints()
	if err != nil {
		return false, err
	}
	for _, n := range names {
		dir := filepath.Join(r.Dir, n)
		err := r.read(dir)
		if errors.Is(err, errDamaged) {
			r.res.Damaged = append(r.res.Damaged, fmt.Sprintf("%s: %v", n, err))
			if err := r.remove(n); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return false, fmt.Errorf("go on from checkpoint %s: %w; remove it to start again", dir, err)
		}
		r.res.Resumed = r.res.Steps
		return true, r.prune(max(r.Keep, 1)) // a run was killed before it did
	}
	return false, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// readState reads and checks the files of a checkpoint.
func readState(dir string) (s state, err error) {
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%w: it has no %s", errDamaged, stateName)
	}
	if err != nil {
		return s, err
	}
	var whole sealed
	if err := json.Unmarshal(data, &whole); err != nil {
		return s, fmt.Errorf("%w: %s: %w", errDamaged, stateName, err)
	}
	if hashOf(whole.State) != whole.SHA256 {
		return s, fmt.Errorf("%w: the checksum of %s does not match", errDamaged, stateName)
	}
	if err := json.Unmarshal(whole.State, &s); err != nil {
		return s, fmt.Errorf("%w: %s: %w", errDamaged, stateName, err)
	}
	f, err := os.Open(filepath.Join(dir, tensorsName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%w: it has no %s", errDamaged, tensorsName)
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return s, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != s.Tensors {
		return s, fmt.Errorf("%w: the checksum of %s does not match", errDamaged, tensorsName)
	}
	return s, nil
}

func (r *run) read(dir string) error {
	s, err := readState(dir)
	if err != nil {
		return err
	}
	if s.ID != r.ID || s.Steps < 1 || s.Steps > r.sched.Steps || s.Updates < 0 || s.Updates > s.Steps {
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
