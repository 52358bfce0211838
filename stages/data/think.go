package data

import (
	"errors"
	"strings"

	"pipe/runtime/artifact"
)

// think leaves out what the assistant thought, if it is to be left out.
func (s *spec) think(row *artifact.Row) error {
	if s.Reasoning != dropThoughts {
		return nil
	}
	for _, turns := range [][]artifact.Message{row.Messages, row.Chosen, row.Rejected} {
		for i := range turns {
			m := &turns[i]
			if m.Role != "assistant" || m.Content == "" {
				continue
			}
			if m.Content = artifact.Said(m.Content); strings.TrimSpace(m.Content) == "" {
				return errors.New("has a turn of the assistant that is a thought alone, and reasoning = \"drop\" leaves nothing of it; take the row out, or set reasoning = \"keep\"")
			}
		}
	}
	row.Answer = artifact.Said(row.Answer)
	return nil
}
