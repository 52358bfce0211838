//go:build cuda

package gpu

import (
	"testing"

	"pipe/tensor"
)

// planned returns a plan of a backend on no device.
func planned() *plan {
	return (&Backend{name: "cuda:sm_90:132:3", sms: 132, major: 9, shared: 227 << 10}).Plan().(*plan)
}

// part returns the bytes for a purpose at the peak.
func part(u tensor.Usage, name string) (bytes int64) {
	for _, p := range u.Parts {
		if p.Name == name {
			bytes += p.Bytes
		}
	}
	return bytes
}

func TestGranted(t *testing.T) {
	for bytes, want := range map[int]int64{0: 512, 1: 512, 512: 512, 513: 1024, 1 << 20: 2 << 20, 2 << 20: 2 << 20, 2<<20 + 1: 4 << 20, 5 << 30: 5 << 30} {
		if got := granted(bytes); got != want {
			t.Errorf("%d bytes take %d; want %d", bytes, got, want)
		}
	}
}

// TestPlanCounts: memory counts when it is allocated, for what For said, until
// it is freed; of a weight no data is needed.
func TestPlanCounts(t *testing.T) {
	p := planned()
	w, err := p.Load(tensor.BF16, nil, 1024, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p.For(tensor.ForActivations)
	x, _ := p.Alloc(tensor.F32, 1024, 1024)
	p.Copy(p.View(x, 0, 512, 1024), p.View(x, 512*1024, 512, 1024))
	p.Zero(x)
	p.Free(x)
	p.For(tensor.ForCache)
	y, _ := p.Alloc(tensor.F32, 300)
	ones := make([]float32, 300)
	p.Upload(y, ones)
	p.Download(ones, y)
	p.Free(w)
	u := p.Peak()
	if part(u, tensor.ForWeights) != 2<<20 || part(u, tensor.ForActivations) != 4<<20 || u.Bytes != 6<<20+kernelBytes {
		t.Errorf("%+v", u)
	}
	if n := p.counts.tally.Of(tensor.ForCache); n != 1536 || ones[0] != 1 || ones[299] != 1 {
		t.Errorf("%d bytes of cache; ones are %v, %v", n, ones[0], ones[299])
	}
	if n := p.counts.tally.Of(tensor.ForWeights); n != 0 {
		t.Errorf("%d bytes of a freed weight", n)
	}
	if err := p.Sync(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestLogitRows: chunks fit in what logits may take, in whole tiles of rows.
func TestLogitRows(t *testing.T) {
	for _, c := range [][4]int{{1, 5, 1, 8}, {0, 5, 0, 8}, {4096, 128256, 1024, 128256}, {1030, 128256, 640, 128256}, {5000, 262144, 512, 262144}, {5000, 2097153, 63, 2097160}, {40, 50 << 20, 16, 50 << 20}} {
		if rows, ld := logitRows(c[0], c[1]); rows != c[2] || ld != c[3] {
			t.Errorf("%d rows of %d words: %d at a time, %d apart; want %d, %d", c[0], c[1], rows, ld, c[2], c[3])
		}
	}
	p := planned()
	w, _ := p.Load(tensor.BF16, nil, 128256, 64)
	p.Precision(w, tensor.BF16)
	x, _ := p.Alloc(tensor.F32, 4096, 64)
	y, _ := p.Alloc(tensor.F32, 4096)
	target, _ := p.Alloc(tensor.I32, 4096)
	p.LogProb(y, y, nil, x, x, w, target)
	if got := p.scratches[scratchLogits].bytes; got != 4*1024*128256 || int64(got) > part(p.Peak(), tensor.ForScratch) {
		t.Errorf("%d bytes of logits; the plan has %+v", got, p.Peak())
	}
}
