// Package adapter attaches LoRA and DoRA adapters to the linear layers of a
// decoder, trains them there, and reads and writes them as PEFT directories.
package adapter

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"pipe/model"
	"pipe/tensor"
)

// A Config says what to attach. The zero value is not usable: start from
// [NewConfig].
type Config struct {
	DoRA    bool
	Rank    int      // r
	Alpha   float64  // the adapter's output is scaled by Alpha/Rank
	RSLoRA  bool     // scale by Alpha/√Rank instead (Kalajdzievski 2023)
	Dropout float64  // of the adapter's input, while training
	Targets []string // see [Targets]
}

// NewConfig returns the defaults: LoRA of rank 16 and alpha 32 on all linears.
func NewConfig() Config {
	return Config{Rank: 16, Alpha: 32, Targets: []string{AllLinear}}
}

// AllLinear as the only target means every linear layer but the output head.
const AllLinear = "all-linear"

// Check reports a setting out of range.
func (c Config) Check() error {
	switch {
	case c.Rank < 1 || c.Rank > 4096:
		return fmt.Errorf("rank is %d; must be between 1 and 4096, usually 8 to 64", c.Rank)
	case !(c.Alpha > 0 && c.Alpha < 1e6):
		return fmt.Errorf("alpha is %v; must be above 0, usually once or twice the rank", c.Alpha)
	case !(c.Dropout >= 0 && c.Dropout < 1):
		return fmt.Errorf("dropout is %v; must be at least 0 and below 1", c.Dropout)
	case len(c.Targets) == 0:
		return fmt.Errorf("targets is empty; name layers, such as [\"q_proj\", \"v_proj\"], or [\"all-linear\"]")
	}
	return nil
}

// Scale returns the factor of the adapter's output.
func (c Config) Scale() float64 {
	if c.RSLoRA {
		return c.Alpha / math.Sqrt(float64(c.Rank))
	}
	return c.Alpha / float64(c.Rank)
}

// A Set is the adapters of a decoder, one for each linear it targets.
type Set struct {
	Config Config
	d      *model.Decoder
	paths  []string // module paths, in the order of the decoder
	linear map[string]*model.Linear
	norms  norms
}

// Attach puts new adapters on d, whose weights must be frozen. A fresh adapter
// changes nothing: B is zero, A is uniform in ±1/√in and made from the seed
// and the layer's path, a magnitude is the norm of its row.
func Attach(d *model.Decoder, c Config, seed uint64) (*Set, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("attach adapter: %w", err)
	}
	s := newSet(d, c)
	chosen, err := Targets(s.all(), c.Targets)
	if err != nil {
		return nil, fmt.Errorf("attach adapter: %w", err)
	}
	for _, path := range chosen {
		l, err := s.attach(path, c.Rank, float32(c.Scale()))
		if err != nil {
			return nil, err
		}
		rng, a := model.NewStream(seed, path+".lora_A"), make([]float32, l.a.Value.Len())
		bound := 1 / math.Sqrt(float64(l.a.Value.Cols()))
		for i := range a {
			a[i] = float32((2*rng.Float(uint64(i)) - 1) * bound)
		}
		d.Backend().Upload(l.a.Value, a)
		if c.DoRA {
			if err := s.initMagnitude(path, l); err != nil {
				return nil, err
			}
		}
	}
	d.Changed()
	return s, nil
}

func newSet(d *model.Decoder, c Config) *Set {
	s := &Set{Config: c, d: d, linear: map[string]*model.Linear{}}
	d.Linears(func(path string, l *model.Linear) { s.linear[path] = l })
	return s
}

// all returns the paths of every linear layer, in order.
func (s *Set) all() (paths []string) {
	s.d.Linears(func(path string, _ *model.Linear) { paths = append(paths, path) })
	return paths
}

// attach makes the adapter of one linear: all zeros.
func (s *Set) attach(path string, rank int, scale float32) (*lora, error) {
	l := s.linear[path]
	switch {
	case l.Adapter != nil:
		return nil, fmt.Errorf("attach adapter to %s: it has one already", path)
	case l.W.Grad != nil:
		return nil, fmt.Errorf("attach adapter to %s: its weights are trained themselves", path)
	}
	var err error
	alloc := func(purpose string, shape ...int) *tensor.Tensor {
		if err != nil {
			return nil
		}
		var t *tensor.Tensor
		tensor.For(s.d.Backend(), purpose)
		if t, err = s.d.Backend().Alloc(tensor.F32, shape...); err == nil {
			s.d.Own(t)
		}
		return t
	}
	out, in := l.Out(), l.In()
	a := &lora{scale: scale, drop: float32(s.Config.Dropout), id: uint64(slices.Index(s.all(), path))}
	param := func(shape ...int) model.Param {
		return model.Param{Value: alloc(tensor.ForAdapter, shape...), Grad: alloc(tensor.ForGradients, shape...)}
	}
	a.a, a.b = param(rank, in), param(out, rank)
	if s.Config.DoRA {
		m, vector := param(out), func() *tensor.Tensor { return alloc(tensor.ForAdapter, out) }
		a.m = &m
		a.w2, a.c, a.ratio = vector(), vector(), vector()
	}
	if err != nil {
		return nil, fmt.Errorf("attach adapter to %s: %w", path, err)
	}
	if s.Config.DoRA {
		s.d.Backend().RowSquares(a.w2, l.W.Value)
		a.norms = &s.norms
		s.norms.of, s.norms.w = append(s.norms.of, a), append(s.norms.w, l)
	}
	l.Adapter = a
	s.paths = append(s.paths, path)
	return a, nil
}

// initMagnitude sets m to the row norms of W.
func (s *Set) initMagnitude(path string, a *lora) error {
	m := make([]float32, a.w2.Len())
	s.d.Backend().Download(m, a.w2)
	for j, v := range m {
		if !(v > 0) {
			return fmt.Errorf("attach adapter to %s: row %d of its weight has norm %v, and DoRA needs it above 0; use LoRA or leave this layer out of targets", path, j, v)
		}
		m[j] = float32(math.Sqrt(float64(v)))
	}
	s.d.Backend().Upload(a.m.Value, m)
	return nil
}

// Paths returns the module paths of the adapted layers, in order.
func (s *Set) Paths() []string { return slices.Clone(s.paths) }

// OverRanked says in which layers the rank is more than an update of their weights
// can have, which is the smaller of their two dimensions; "" when there is none.
func (s *Set) OverRanked() string {
	n, least, first := 0, 0, ""
	for _, path := range s.paths {
		if most := min(s.linear[path].In(), s.linear[path].Out()); most < s.Config.Rank {
			if n++; n == 1 || most < least {
				least, first = most, path
			}
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("rank = %d is more than an update can have in %d of %d layers, the least %d in %s: what is beyond learns nothing more and takes memory and time", s.Config.Rank, n, len(s.paths), least, first)
}

// Detach takes the adapters off again.
func (s *Set) Detach() {
	for _, path := range s.paths {
		s.linear[path].Adapter = nil
	}
}

// ErrNoLayer is what is wrong with a target that is the path of no layer.
var ErrNoLayer = errors.New("matches no layer")

// Targets selects module paths as PEFT does: a single target with a regular
// expression's characters must match a whole path; otherwise each target is a
// path or the end of one after a dot. [AllLinear] selects all. A target that
// matches nothing is an error.
func Targets(paths, targets []string) ([]string, error) {
	if len(targets) == 1 && targets[0] == AllLinear {
		return paths, nil
	}
	match := func(target, path string) bool { return path == target || strings.HasSuffix(path, "."+target) }
	if len(targets) == 1 && isRegexp(targets[0]) {
		re, err := regexp.Compile("^(?:" + targets[0] + ")$")
		if err != nil {
			return nil, fmt.Errorf("target %q: %w", targets[0], err)
		}
		match = func(_, path string) bool { return re.MatchString(path) }
	}
	hit := map[string]bool{}
	for _, t := range targets {
		found := false
		for _, p := range paths {
			if match(t, p) {
				found, hit[p] = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("target %q %w%s", t, ErrNoLayer, suggest(t, paths))
		}
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !hit[p] }), nil
}

// isRegexp tells a regular expression from a plain path.
func isRegexp(target string) bool { return strings.ContainsAny(target, `*+?()[]{}|^$\`) }

// suggest names the layer that target may have meant, and those there are.
func suggest(target string, paths []string) string {
	var names []string
	for _, p := range paths {
		if n := p[strings.LastIndexByte(p, '.')+1:]; !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	best, at := len(target)/2+1, ""
	for _, n := range names {
		if d := distance(target, n); d < best {
			best, at = d, n
		}
	}
	list := "; the layers are " + strings.Join(names, ", ")
	if at != "" {
		return fmt.Sprintf(" (did you mean %q?)%s", at, list)
	}
	return list
}

// distance is the number of edits from a to b (Levenshtein 1966).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
