package artifact

import "strconv"

// A Message is one turn of a conversation. Role is "system", "user",
// "assistant" or "tool". Content of the assistant's may begin with what it thought,
// between <think> and </think> ([Think]).
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// A Row is one item of a dataset between data, synth, dedup, mix, pack and
// eval. One schema serves all of them; what is set says what the row is:
//
//   - a document: Text
//   - a conversation: Messages, ending with an assistant turn to be learned
//   - a preference: Messages is the prompt; Chosen and Rejected continue it
//   - a multiple-choice item: Messages (or Text) is the question, Choices and Gold
//   - a question with a reference answer: Messages (or Text) and Answer
type Row struct {
	ID       string // unique in its dataset
	Text     string
	Messages []Message
	Chosen   []Message
	Rejected []Message
	Choices  []string
	Gold     int32 // index into Choices; -1 when there are none
	Answer   string
	Source   string // where it came from: "docs/a.txt", "rows.jsonl:12", or the id of the row it was made from
	Meta     string // JSON object of everything else, keys sorted; "" when empty
}

// The types of the rows of a table, as [RowType] names them.
const (
	PlainRows  = "row"    // [Row]
	PackedRows = "packed" // [Packed]
	DropRows   = "drop"   // [Drop]
	PointRows  = "point"  // [Point]
)

// RowWords says in words, plural, what rows of a type are.
func RowWords(name string) string {
	switch name {
	case PlainRows:
		return "plain rows"
	case PackedRows:
		return "packed rows"
	case DropRows:
		return "dropped rows"
	case PointRows:
		return "curve points"
	}
	return "rows of type " + strconv.Quote(name)
}

// A WrongRows says that a table holds rows of another type than is needed.
type WrongRows struct{ Have, Need string }

// Error says what it holds and what is needed.
func (e *WrongRows) Error() string {
	return "it holds " + RowWords(e.Have) + "; " + RowWords(e.Need) + " are needed"
}

// A Packed is one training row: documents laid end to end up to seq_len.
type Packed struct {
	IDs    []int32  // token ids, len <= seq_len; rows are not padded
	Starts []int32  // first token of each document, ascending, Starts[0] == 0
	Loss   []int32  // pairs [start,end) of token spans that are learned (targets), ascending
	Rows   []string // the ids of the rows packed here, one per document
}

// A Drop explains why a row left the dataset (dedup's "drops", synth's
// "rejects"). Every dropped row has exactly one.
type Drop struct {
	ID      string  // the row dropped
	Reason  string  // "exact", "near", "contaminated", "malformed", ...
	Partner string  // the row kept instead, or the benchmark item matched
	Score   float64 // similarity or coverage; 1 for exact
	Detail  string  // spans, the teacher's answer, ...: for people
	Text    string  // the beginning of the row, for reports
}

// A Point is one value of a series, such as the training loss at a step.
type Point struct {
	Series string
	Step   int64
	Value  float64
}

// A Metric is one measured number with its uncertainty.
type Metric struct {
	N      int     `json:"n"`      // items measured
	Value  float64 `json:"value"`  //
	Stderr float64 `json:"stderr"` // standard error of Value; 0 when N < 2
	// Better is +1 when higher is better, -1 when lower is, 0 when neither.
	Better int `json:"better"`
}
