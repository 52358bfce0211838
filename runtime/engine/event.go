package engine

// An Observer is told what happens, one event at a time.
type Observer func(Event)

// An EventType says which fields of an Event are set.
type EventType string

// The types of events.
const (
	StageEvent    EventType = "stage"    // Stage: its State says what happened
	ProgressEvent EventType = "progress" // Done, Total, Unit
	MetricEvent   EventType = "metric"   // Name, Step, Value
	NoteEvent     EventType = "note"     // Text
	GateEvent     EventType = "gate"     // Gate
	WaitEvent     EventType = "wait"     // another run, or an equal stage, does the work of Addr: its end is awaited
)

// An Event is something that happened to a block.
type Event struct {
	Type EventType
	Addr string

	Stage *StageResult // a copy
	Gate  *GateResult

	Done, Total int64 // Total 0: unknown
	Unit        string

	Name  string
	Step  int64
	Value float64 // may be NaN or infinite

	Text string
}

func (e *engine) emit(ev Event) {
	if e.Observer == nil {
		return
	}
	e.observe.Lock()
	defer e.observe.Unlock()
	e.Observer(ev)
}

func (e *engine) emitStage(r StageResult) {
	e.emit(Event{Type: StageEvent, Addr: r.Addr, Stage: &r})
}
