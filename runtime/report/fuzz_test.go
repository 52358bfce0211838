package report

import (
	"bytes"
	"encoding/json"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// FuzzReport writes the report of a run whose note and metrics are anything: it
// never panics, and what it writes is bounded by what it read.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"run":"r","stages":[{"stage":"a.b","kind":"select","state":"done","needs":["a.b","c"]},{"stage":"c","needs":["a.b"],"seconds":-1e308,"began":"0001-01-02T00:00:00Z"}],"gates":[{}]}`),
		[]byte(`{"metrics":{"m":{"n":3,"value":1e308,"stderr":1e308},"m@k=1":{"n":3,"value":-1e308}},"baseline":{"m":{"n":-1}},"grids":{"g":{"rows":[1,2],"cols":[1],"values":[[],[7,8]]}}}`), int64(9))
	f.Add([]byte(`{"seconds":1e300,"started":"9999-01-01T00:00:00Z","stages":[{"state":"cached","saved_seconds":1e999}]}`), []byte(`{}`), int64(-1<<63))
	f.Add([]byte(`{"stages":[{"stage":"s.x[\"\"]"},{"stage":"s.x[\"a"},{"stage":"["},{"stage":""}]}`), []byte(`[]`), int64(1<<62))
	f.Fuzz(func(t *testing.T, note, metrics []byte, step int64) {
		var run engine.RunFile
		if json.Unmarshal(note, &run) != nil || len(run.Stages) > 100 {
			return
		}
		l := newLab(t)
		m := l.put(artifact.Metrics, func(w *artifact.Writer) error {
			return w.WriteJSON(artifact.MetricsName, json.RawMessage(jsonOr(metrics)))
		})
		key := artifact.Key{1}
		rec := &artifact.Record{Key: key, Preimage: json.RawMessage(jsonOr(metrics)), Outputs: map[string]artifact.Object{"metrics": m},
			Series: []artifact.Point{{Series: "s", Step: step, Value: float64(step)}, {Series: "s", Step: -step, Value: 1e308}, {Series: "s", Step: step, Value: -1e308}}}
		if err := l.store.PutRecord(rec); err != nil {
			t.Fatal(err)
		}
		for i := range run.Stages {
			run.Stages[i].Outputs, run.Stages[i].Key = rec.Outputs, key
		}
		l.run = run
		b := l.html()
		if n := 200_000 + 200*(len(note)+len(metrics))*max(1, len(run.Stages)); len(b) > n {
			t.Errorf("%d bytes of %d", len(b), len(note)+len(metrics))
		}
		if bytes.Contains(b, []byte("ZgotmplZ")) {
			t.Error("a value of the template was refused")
		}
	})
}

func jsonOr(b []byte) []byte {
	if json.Valid(b) {
		return b
	}
	return []byte("{}")
}
