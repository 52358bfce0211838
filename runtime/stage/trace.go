package stage

import (
	"context"
	"iter"
	"unicode"

	"pipe/runtime/artifact"
)

// A Parent is a row of an input that a row was made from.
type Parent struct {
	Input string // path of the attribute that refers to the dataset, such as "input"
	ID    string // of the row there
	Part  string // which part of it, for people, such as "passage 3"; empty for all of it
	// From is where in the parent's Text that part begins, in bytes. Copy says
	// that the row's text is the parent's from there on.
	From int
	Copy bool
}

// A Descent is a row of an output with the rows that it was made from.
type Descent struct {
	ID      string // of the row; empty for rows without, such as packed ones
	Parents []Parent
}

// Outputs opens what a stage has made.
type Outputs func(output string) (*artifact.Artifact, error)

// A Tracer is a Stage that knows from which rows of its inputs the rows of its
// outputs were made. Of other stages it is taken that a row keeps its id.
type Tracer interface {
	Stage
	// Lineage yields a Descent for every row of an output, in their order. It
	// stops at the first error. env is as for [MemoryPlanner].
	Lineage(env *Env, made Outputs, output string) iter.Seq2[Descent, error]
}

// A Place is a row of an output, and what is pointed at in it.
type Place struct {
	Output string
	Row    int // from 0
	At     int // in a packed row the number of a token, else of a byte of Text; -1: the row as a whole
}

// A Fact is something to say of a row, such as what the teacher was asked.
type Fact struct {
	What string `json:"what"`
	Text string `json:"text"`
}

// Told is what a stage has to say of a row.
type Told struct {
	Facts []Fact
	// Parent is the only one of the row's parents that At came from, and At
	// where in its Text, in bytes. Parent -1: any, and they follow from the Descent.
	Parent, At int
}

// A Teller is a Stage that can tell how a row of its outputs came about.
type Teller interface {
	Stage
	Tell(ctx context.Context, env *Env, made Outputs, p Place) (*Told, error)
}

// A Use is how a training stage used a row.
type Use struct {
	Steps []int  // optimizer steps that learned from it, from 1
	Note  string // why there are none, or what else is to know
}

// A Learner is a Stage that trains on the rows of a dataset.
type Learner interface {
	Stage
	// Uses returns the uses of the rows of the dataset that the attribute at
	// path refers to, in their order; nil when it does not learn from them.
	Uses(ctx context.Context, env *Env, path string) ([]Use, error)
}

// Follow finds a piece that was cut out of text, from the byte at on, and
// returns where it begins and ends. Cutting keeps all characters but white
// space: they are counted off, so that equal pieces are told apart.
func Follow(text string, at int, piece string) (begin, end int) {
	left := 0
	for _, c := range piece {
		if !unicode.IsSpace(c) {
			left++
		}
	}
	begin, end = -1, at
	for i, c := range text[at:] {
		if left == 0 {
			break
		}
		if unicode.IsSpace(c) {
			continue
		}
		if begin < 0 {
			begin = at + i
		}
		end = at + i + len(string(c))
		left--
	}
	if begin < 0 {
		begin = at
	}
	return begin, end
}
