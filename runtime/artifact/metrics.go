package artifact

// MetricsName is the name of the JSON file of a Metrics artifact; its content
// is a [MetricsFile].
const MetricsName = "metrics.json"

// A MetricsFile is what an eval measured. Metric names are "SUITE.METRIC",
// such as "license_qa.acc" or "perplexity.nll".
type MetricsFile struct {
	Metrics  map[string]Metric `json:"metrics"`            // the evaluated model
	Baseline map[string]Metric `json:"baseline,omitempty"` // the same of the untuned base model
	Change   map[string]Metric `json:"change,omitempty"`   // Metrics less Baseline; Stderr is that of the paired difference over the same items
	Blind    map[string]Metric `json:"blind,omitempty"`    // what guessing without the question or document scores
	Grids    map[string]Grid   `json:"grids,omitempty"`    // two-dimensional results, such as the needle grid
	Items    *Items            `json:"items,omitempty"`    // of a stage that writes no rows of them
}

// Items are what single items came to. A metric is the mean of its values by
// weight.
type Items struct {
	Names   []string             `json:"names"`             // by their content: the same item has the same name in every run
	Values  map[string][]float64 `json:"values"`            // by metric, one an item
	Weights []float64            `json:"weights,omitempty"` // one an item, such as its tokens; without, each is 1
}

// A Grid is a table of one value per cell, rows by columns.
type Grid struct {
	RowName  string      `json:"row_name"` // "length (tokens)"
	ColName  string      `json:"col_name"` // "depth"
	Rows     []float64   `json:"rows"`
	Cols     []float64   `json:"cols"`
	N        int         `json:"n"` // items behind each cell
	Values   [][]float64 `json:"values"`
	Baseline [][]float64 `json:"baseline,omitempty"`
}
