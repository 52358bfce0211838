package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

// Sizes of a chart, in pixels.
const (
	chartWidth, chartHeight                  = 620, 230
	plotLeft, plotRight, plotTop, plotBottom = 62, 12, 12, 30
)

// mostCurves is how many stages have curves, and mostPlotted how many points a
// line has.
const mostCurves, mostPlotted = 24, 400

// Curves are the losses of all stages, and by stage what else they recorded.
type curves struct {
	Main   []chart
	Others []curveSet
	More   int // stages that are not shown
}

// A curveSet is the other series of one stage.
type curveSet struct {
	Stage  string
	Charts []chart
}

// A chart is one series, drawn over linear and, if all values are above 0, over
// logarithmic axes.
type chart struct {
	Stage, Name, Summary string
	Linear               plot
	Log                  *plot
}

type plot struct {
	Width, Height       int
	Left, Right, Bottom int
	Top                 int
	Raw, Smooth         string // SVG paths
	Dots                []dot  // of a series with few points
	X, Y                []mark
}

type dot struct{ X, Y string }

type mark struct {
	At   string
	Text string
}

func (r *reader) curves() (out curves) {
	shown := 0
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		if st.Key == (artifact.Key{}) {
			continue
		}
		points, err := r.store.Series(st.Key)
		if err != nil || len(points) == 0 {
			continue
		}
		if shown++; shown > mostCurves {
			out.More++
			continue
		}
		set := curveSet{Stage: clean(st.Addr)}
		byName := map[string][]artifact.Point{}
		var names []string
		for _, p := range points {
			if !finite(p.Value) {
				continue
			}
			if byName[p.Series] == nil {
				names = append(names, p.Series)
			}
			byName[p.Series] = append(byName[p.Series], p)
		}
		for k, n := range names {
			if k == 16 {
				break
			}
			c := newChart(n, byName[n])
			if c.Stage = set.Stage; k == 0 || strings.Contains(n, "loss") {
				out.Main = append(out.Main, c)
			} else {
				set.Charts = append(set.Charts, c)
			}
		}
		if set.Charts != nil {
			out.Others = append(out.Others, set)
		}
	}
	return out
}

func newChart(name string, ps []artifact.Point) chart {
	first, last := ps[0], ps[len(ps)-1]
	low := slices.MinFunc(ps, func(a, b artifact.Point) int { return compareFloat(a.Value, b.Value) })
	high := slices.MaxFunc(ps, func(a, b artifact.Point) int { return compareFloat(a.Value, b.Value) })
	c := chart{Name: clean(name), Linear: newPlot(ps, false)}
	c.Summary = fmt.Sprintf("%s: %s at step %d, %s at step %d; lowest %s at step %d, highest %s at step %d; %s.", c.Name,
		number(first.Value), first.Step, number(last.Value), last.Step, number(low.Value), low.Step, number(high.Value), high.Step, counted(len(ps), "point"))
	if low.Value > 0 {
		p := newPlot(ps, true)
		c.Log = &p
	}
	return c
}

func compareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// newPlot draws points, and through them a smooth line: an exponential mean over
// about a fifteenth of them.
func newPlot(ps []artifact.Point, log bool) plot {
	p := plot{Width: chartWidth, Height: chartHeight, Left: plotLeft, Right: chartWidth - plotRight, Top: plotTop, Bottom: chartHeight - plotBottom}
	value := func(v float64) float64 {
		if log {
			return math.Log10(v)
		}
		return v
	}
	x0, x1 := float64(ps[0].Step), float64(ps[0].Step)
	y0, y1 := value(ps[0].Value), value(ps[0].Value)
	for _, q := range ps {
		x0, x1 = min(x0, float64(q.Step)), max(x1, float64(q.Step))
		y0, y1 = min(y0, value(q.Value)), max(y1, value(q.Value))
	}
	if pad := (y1 - y0) * 0.05; pad > 0 {
		y0, y1 = y0-pad, y1+pad
	} else {
		y0, y1 = y0-max(0.5*math.Abs(y0), 1e-9), y1+max(0.5*math.Abs(y1), 1e-9)
	}
	if x1 == x0 {
		x0, x1 = x0-1, x1+1
	}
	px := func(s int64) float64 {
		return plotLeft + (float64(s)-x0)/(x1-x0)*(chartWidth-plotLeft-plotRight)
	}
	py := func(v float64) float64 {
		return chartHeight - plotBottom - (v-y0)/(y1-y0)*(chartHeight-plotTop-plotBottom)
	}
	raw := make([][2]float64, len(ps))
	for i, q := range ps {
		raw[i] = [2]float64{px(q.Step), py(value(q.Value))}
	}
	if len(ps) < 12 {
		p.Smooth = line(raw)
		for _, q := range raw {
			p.Dots = append(p.Dots, dot{coordinate(q[0]), coordinate(q[1])})
		}
	} else {
		p.Raw = line(thin(raw))
		p.Smooth = line(thin(smooth(raw)))
	}
	for _, t := range ticks(x0, x1, 6) {
		if t == math.Trunc(t) {
			p.X = append(p.X, mark{coordinate(px(int64(t))), integer(int64(t))})
		}
	}
	if log {
		p.Y = logMarks(y0, y1, py)
		return p
	}
	for _, t := range ticks(y0, y1, 5) {
		p.Y = append(p.Y, mark{coordinate(py(t)), short(t)})
	}
	return p
}

// logMarks are powers of ten with 2 and 5 between, or even steps where the range
// holds too few of these.
func logMarks(y0, y1 float64, py func(float64) float64) (out []mark) {
	for e := math.Floor(y0); e <= y1; e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := e + math.Log10(m); v >= y0 && v <= y1 && (m == 1 || y1-y0 < 3) {
				out = append(out, mark{coordinate(py(v)), short(math.Pow(10, v))})
			}
		}
	}
	if len(out) < 2 {
		out = nil
		for _, t := range ticks(math.Pow(10, y0), math.Pow(10, y1), 5) {
			if t > 0 {
				out = append(out, mark{coordinate(py(math.Log10(t))), short(t)})
			}
		}
	}
	return out
}

func coordinate(v float64) string { return fmt.Sprintf("%.1f", v) }

// short prints the value of a tick.
func short(v float64) string {
	if a := math.Abs(v); a >= 1e5 || v != 0 && a < 1e-3 {
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.4g", v)
}

// ticks are about n round numbers from a to b.
func ticks(a, b float64, n int) (out []float64) {
	if !(b > a) || !finite(a) || !finite(b) {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10((b-a)/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if (b-a)/(step*m) <= float64(n) {
			step *= m
			break
		}
	}
	for k := math.Ceil(a / step); k*step <= b && len(out) <= 2*n; k++ {
		out = append(out, k*step+0) // + 0: no -0
	}
	return out
}

// smooth is an exponential mean without the bias of its start.
func smooth(in [][2]float64) [][2]float64 {
	keep := 1 - 1/max(1, float64(len(in))/15)
	out := make([][2]float64, len(in))
	mean, weight := 0.0, 0.0
	for i, p := range in {
		mean, weight = keep*mean+(1-keep)*p[1], keep*weight+(1-keep)
		out[i] = [2]float64{p[0], mean / weight}
	}
	return out
}

// thin keeps the lowest and the highest point of each of a few hundred pieces.
func thin(in [][2]float64) [][2]float64 {
	if len(in) <= mostPlotted {
		return in
	}
	var out [][2]float64
	pieces := mostPlotted / 2
	for k := range pieces {
		part := in[k*len(in)/pieces : (k+1)*len(in)/pieces]
		lo, hi := 0, 0
		for i := range part {
			if part[i][1] < part[lo][1] {
				lo = i
			}
			if part[i][1] > part[hi][1] {
				hi = i
			}
		}
		out = append(out, part[min(lo, hi)])
		if lo != hi {
			out = append(out, part[max(lo, hi)])
		}
	}
	return out
}

func line(ps [][2]float64) string {
	var b strings.Builder
	for i, p := range ps {
		c := "L"
		if i == 0 {
			c = "M"
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", c, p[0], p[1])
	}
	return b.String()
}
