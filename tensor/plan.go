package tensor

// A Planner is a backend that can say what memory a computation will take.
type Planner interface {
	// Plan returns a new backend that runs no operation and holds no number:
	// the same calls on it count what they would take here.
	Plan() Plan
}

// A Plan is a backend that only counts. Download gives ones, so that code which
// looks at results goes on; everything else is accepted as it is.
type Plan interface {
	Backend
	// For says what the tensors allocated from now on are for.
	For(purpose string)
	// Peak returns the most memory in use at one time so far.
	Peak() Usage
}

// Usage is memory by what it is for.
type Usage struct {
	Bytes int64
	Parts []Part // in order of first use; their sum is Bytes
	Host  int64  // of [HostAllocator], beside Bytes
}

// A Part is the memory for one purpose.
type Part struct {
	Name  string
	Bytes int64
}

// A Tally adds up memory by what it is for. The zero value is empty.
type Tally struct {
	live  map[string]int64
	order []string // purposes, by first use
	sum   int64
	peak  Usage
}

// Add counts bytes for a purpose; less than 0 are given back.
func (t *Tally) Add(purpose string, bytes int64) {
	if bytes == 0 {
		return
	}
	if _, ok := t.live[purpose]; !ok {
		if t.live == nil {
			t.live = map[string]int64{}
		}
		t.order = append(t.order, purpose)
	}
	t.live[purpose] += bytes
	if t.sum += bytes; t.sum <= t.peak.Bytes {
		return
	}
	t.peak = Usage{Bytes: t.sum, Parts: t.peak.Parts[:0]}
	for _, name := range t.order {
		t.peak.Parts = append(t.peak.Parts, Part{Name: name, Bytes: t.live[name]})
	}
}

// Of returns what is in use for a purpose now.
func (t *Tally) Of(purpose string) int64 { return t.live[purpose] }

// Peak returns the most memory in use at one time so far.
func (t *Tally) Peak() Usage { return t.peak }

// A Limited backend has memory of its own; that of others is the machine's.
type Limited interface {
	// Limit returns the bytes that can still be had and what leaves them, for
	// people, such as "the device has free"; false if that cannot be told.
	Limit() (bytes int64, from string, ok bool)
}

// A HostAllocator is a backend with memory of its own that also keeps tensors in
// the machine's, where its device reads and writes them over the bus: what is
// used once a step, and does not fit the device.
type HostAllocator interface {
	// AllocHost is Alloc in the machine's memory. The tensor is an M or V of AdamW
	// or AdamW8bit, or of the operations of [Memory]; which bits they give does not
	// depend on where tensors lie. A plan counts it as [Usage].Host.
	AllocHost(dt DType, shape ...int) (*Tensor, error)
}

// What memory is for.
const (
	ForWeights     = "weights"
	ForPanels      = "packed weights" // copies in the order of the kernels
	ForAdapter     = "adapter"
	ForGradients   = "gradients"
	ForOptimizer   = "optimizer state"
	ForActivations = "activations"
	ForCache       = "key-value cache"
	ForScratch     = "scratch" // of operations
)

// For says, if b is a plan, what is allocated next.
func For(b Backend, purpose string) {
	if p, ok := b.(Plan); ok {
		p.For(purpose)
	}
}
