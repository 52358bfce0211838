package cpu

// mostProducts is how many products one operation computes: queries, keys and
// values.
const mostProducts = 3

// operation holds what the jobs of the operation in progress work on. Jobs run
// on other goroutines too: what they were given from the caller's stack, a
// closure included, would be allocated by each operation. So they are functions
// that capture nothing, and this lies in the backend.
type operation struct {
	args     args
	products [mostProducts]product
	lows     [mostProducts]lowRank // of products
	second   [1]product            // that of few terms which follows a product
	swiglu   gluGrad               // of products[0]
	few      fewParts
	tiles    [2]tiles
	packed   [2]panels // what is multiplied by tiles, unless it is kept
	terms    [2]panels // of lows
	softmax  softmax
	heads    heads
	pairs    pairs   // of heads
	strips   []strip // of heads
	grad     attentionGrad
	adamw    adamw
	moments  moments
}

// args are the slices and numbers of a part; which is which is its own affair.
type args struct {
	b          *Backend
	dst, dst2  []float32
	x, y, z, w []float32
	sq, sum    []float32
	wide       []float64
	ids        []int32
	first      int
	rows, cols int
	scale      float32
	seed       uint64
	on         bool
	o          operand
	p          *product
	panels     *panels
}
