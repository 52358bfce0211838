package index

import (
	"context"
	"math"

	"pipe/model"
	"pipe/stages/dedup/parallel"
	"pipe/tensor"
)

// Cells is an exact Search. Rows are put into the cells of k-means centroids
// (unit vectors). Two rows within distance r of each other whose cells differ
// both lie within r of the plane between the two centroids, so each row visits
// only the cells behind planes that near. What is left is compared in full;
// when nothing much is ruled out, Tiles does it.
//
// The centroids decide the cost, never the result.
func Cells(ctx context.Context, b tensor.Backend, v Vectors, threshold float64, yield Yield) error {
	if v.Len() < tileCols {
		return Tiles(ctx, b, v, threshold, yield)
	}
	c, err := newCells(ctx, b, v, threshold)
	if err != nil {
		return err
	}
	return c.compare(ctx, b, threshold, yield)
}

// compare compares what is left, or all where nothing much is ruled out. It closes c.
func (c *cells) compare(ctx context.Context, b tensor.Backend, threshold float64, yield Yield) error {
	defer c.close()
	if n := float64(c.v.Len()); c.cost() > n*n/3 {
		c.close()
		return Tiles(ctx, b, c.v, threshold, yield)
	}
	return c.join(ctx, threshold, yield)
}

// cells is a partition of the rows.
type cells struct {
	*tiler
	v         Vectors
	centroids Vectors
	centers   *tensor.Tensor // [K, width]
	home      [][]int32      // rows of each cell
	visit     *visits        // rows of later cells that must be compared with it
	closed    bool
}

// Rounds and sample rows a centroid of k-means.
const (
	meansRounds = 3
	meansSample = 16
)

func newCells(ctx context.Context, b tensor.Backend, v Vectors, threshold float64) (*cells, error) {
	t, err := newTiler(b, v)
	if err != nil {
		return nil, err
	}
	c := &cells{tiler: t, v: v}
	k := min(tileCols, max(1, int(3*math.Sqrt(float64(v.Len())))), v.Len()) // at most a column for each in a tile
	if err = c.means(ctx, k); err == nil {
		err = c.assign(ctx, math.Sqrt(max(0, 2-2*threshold)))
	}
	if err == nil {
		err = b.Sync()
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cells) close() {
	if !c.closed {
		c.closed = true
		c.tiler.close()
	}
}

// cost is the number of cosines that join computes.
func (c *cells) cost() float64 {
	var s float64
	for i, l := range c.home {
		s += float64(len(l)) * (float64(len(l))/2 + float64(c.visit.count[i]))
	}
	return s + float64(c.v.Len())*float64(c.centroids.Len())
}

// means chooses k centroids: spherical k-means over a sample, beginning with
// rows of the sample.
func (c *cells) means(ctx context.Context, k int) error {
	order := model.NewStream(uint64(c.v.Len()), "dedup.cells").Perm(c.v.Len())
	sample := order[:min(len(order), k*meansSample)]
	c.centroids = Vectors{make([]float32, k*c.width), c.width}
	for i := range k {
		copy(c.centroids.Row(i), c.v.Row(sample[i]))
	}
	var err error
	if c.centers, err = c.alloc(tensor.F32, k, c.width); err != nil {
		return err
	}
	picked := Vectors{make([]float32, len(sample)*c.width), c.width}
	for i, r := range sample {
		copy(picked.Row(i), c.v.Row(r))
	}
	x, err := c.upload(picked)
	if err != nil {
		return err
	}
	nearest := make([]int32, len(sample))
	for range meansRounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		c.b.Upload(c.centers, c.centroids.Data)
		c.each(x, len(sample), func(i int, s []float32) { nearest[i] = int32(largest(s)) })
		c.average(picked, nearest)
	}
	c.b.Upload(c.centers, c.centroids.Data)
	return c.b.Sync()
}

// average moves each centroid to the mean direction of its rows; one without
// rows stays.
func (c *cells) average(x Vectors, nearest []int32) {
	members := make([][]int32, c.centroids.Len())
	for i, k := range nearest {
		members[k] = append(members[k], int32(i))
	}
	parallel.For(len(members), 8, func(k int) {
		sum := make([]float64, c.width)
		for _, i := range members[k] {
			for d, x := range x.Row(int(i)) {
				sum[d] += float64(x)
			}
		}
		var s float64
		for _, x := range sum {
			s += x * x
		}
		if s = math.Sqrt(s); s < 1e-6 {
			return
		}
		for d, x := range sum {
			c.centroids.Row(k)[d] = float32(x / s)
		}
	})
}

// each calls f, in parallel, with the cosines of each row of x [n, width] to
// all centroids.
func (c *cells) each(x *tensor.Tensor, n int, f func(i int, s []float32)) {
	k := c.centroids.Len()
	for i := 0; i < n; i += tileRows {
		rows := min(tileRows, n-i)
		c.multiply(x, i, rows, c.centers, 0, k)
		parallel.For(rows, 16, func(r int) { f(i+r, c.host[r*k:(r+1)*k]) })
	}
}

func largest(s []float32) int {
	at := 0
	for k, x := range s {
		if x > s[at] {
			at = k
		}
	}
	return at
}

// assign puts each row into its cell and into the earlier cells it visits: one
// of two rows of different cells lies in the later one, and visits.
func (c *cells) assign(ctx context.Context, r float64) error {
	n, k := c.v.Len(), c.centroids.Len()
	planes := c.planes()
	home := make([]int32, n)
	c.visit = newVisits(n, k)
	c.each(c.all, n, func(i int, s []float32) {
		if c.v.zero(i) {
			home[i] = -1
			return
		}
		b := largest(s)
		home[i] = int32(b)
		dist, set := planes[b*k:], c.visit.row(i)
		for j := range b {
			if s[b]-s[j] <= float32(r)*dist[j]+rounding {
				set[j/64] |= 1 << (j % 64)
			}
		}
	})
	c.visit.tally()
	c.home = make([][]int32, k)
	for i := range n {
		if home[i] >= 0 {
			c.home[home[i]] = append(c.home[home[i]], int32(i))
		}
	}
	return ctx.Err()
}

// rounding keeps the pruning exact though a backend's cosines are not: the
// test of assign depends on two cosines of the row and on two of the row that
// it might miss, each off by less than slack/2.
const rounding = 2 * slack

// planes returns the distances of the centroids from each other, [K, K].
func (c *cells) planes() []float32 {
	k := c.centroids.Len()
	d := make([]float32, k*k)
	for i := 0; i < k; i += tileRows {
		rows := min(tileRows, k-i)
		c.multiply(c.centers, i, rows, c.centers, 0, k)
		for e, s := range c.host[:rows*k] {
			d[i*k+e] = float32(math.Sqrt(max(0, 2-2*float64(s)))) + rounding
		}
	}
	return d
}

// join compares the rows of each cell with each other and with its visitors.
func (c *cells) join(ctx context.Context, threshold float64, yield Yield) error {
	low := float32(threshold - slack)
	most := 0
	for i, l := range c.home {
		most = max(most, len(l)+c.visit.count[i])
	}
	gathered, err := c.alloc(tensor.F32, max(1, most), c.width)
	if err != nil {
		return err
	}
	index, err := c.alloc(tensor.I32, max(1, most))
	if err != nil {
		return err
	}
	var visitors [64][]int32
	var rows []int32
	for k, own := range c.home {
		if err := ctx.Err(); err != nil {
			return err
		}
		if k%64 == 0 {
			c.visit.lists(k/64, &visitors)
		}
		if len(own) == 0 {
			continue
		}
		rows = append(append(rows[:0], own...), visitors[k%64]...)
		at := c.b.View(index, 0, len(rows))
		c.b.UploadInts(at, rows)
		c.b.GatherRows(c.b.View(gathered, 0, len(rows), c.width), c.all, at)
		for i := 0; i < len(own); i += tileRows {
			r := min(tileRows, len(own)-i)
			for j := i; j < len(rows); j += tileCols {
				cols := min(tileCols, len(rows)-j)
				c.multiply(gathered, i, r, gathered, j, cols)
				c.scan(r, cols, low, func(x, y int) {
					if i+x < j+y {
						yield(int(rows[i+x]), int(rows[j+y]))
					}
				})
			}
		}
	}
	return c.b.Sync()
}
