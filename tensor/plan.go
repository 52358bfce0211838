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
}

// A Part is the memory for one purpose.
type Part struct {
	Name  string
	Bytes int64
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
