package index

import (
	"context"
	"fmt"

	"pipe/tensor"
)

// Names are the values that Find takes for how.
var names = []string{"auto", "exact", "hnsw", "coder"}

// Names returns the names of the searches.
func Names() []string { return append([]string(nil), names...) }

// Of more rows than autoRows, "auto" compares exactly only when pruning leaves
// at most autoCost cosines a row: where nothing is alike, the graph takes about
// as long as that many, and finds less.
const (
	autoRows = 100_000
	autoCost = 120_000
)

// Find runs the search of that name and returns how the rows were compared.
func Find(ctx context.Context, how string, b tensor.Backend, v Vectors, threshold float64, yield Yield) (method string, err error) {
	switch how {
	case "exact":
		return "exact", Cells(ctx, b, v, threshold, yield)
	case "hnsw":
		return "hnsw", Navigate(ctx, b, v, threshold, yield)
	case "coder":
		return "coder", Coder(ctx, b, v, threshold, yield)
	case "auto":
	default:
		return "", fmt.Errorf("there is no index %q", how)
	}
	if v.Len() <= autoRows {
		return "exact", Cells(ctx, b, v, threshold, yield)
	}
	c, err := newCells(ctx, b, v, threshold)
	if err != nil {
		return "", err
	}
	if n := float64(v.Len()); min(c.cost(), n*n/2) <= autoCost*n {
		return "exact", c.compare(ctx, b, threshold, yield)
	}
	c.close()
	return "hnsw", Navigate(ctx, b, v, threshold, yield)
}
