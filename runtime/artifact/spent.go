package artifact

// Spent is what an action asked of teachers. Money and tokens are of new answers,
// whether or not they have a price; those that came from a journal cost nothing,
// and what they once took is counted apart, for estimates.
type Spent struct {
	Calls        int64   `json:"calls"` // new answers
	InputTokens  int64   `json:"input_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	USD          float64 `json:"usd"`                       // at the prices of the teacher blocks
	Estimated    int64   `json:"estimated_calls,omitempty"` // of Calls, those whose tokens the server did not count
	Lost         int64   `json:"lost_calls,omitempty"`      // further calls whose answers did not arrive, counted at their longest

	Replayed             int64 `json:"replayed"` // answers that came from a journal
	ReplayedInputTokens  int64 `json:"replayed_input_tokens,omitempty"`
	ReplayedOutputTokens int64 `json:"replayed_output_tokens,omitempty"`
}

// Add adds what b is to s.
func (s *Spent) Add(b Spent) {
	s.Calls += b.Calls
	s.InputTokens += b.InputTokens
	s.OutputTokens += b.OutputTokens
	s.USD += b.USD
	s.Estimated += b.Estimated
	s.Lost += b.Lost
	s.Replayed += b.Replayed
	s.ReplayedInputTokens += b.ReplayedInputTokens
	s.ReplayedOutputTokens += b.ReplayedOutputTokens
}
