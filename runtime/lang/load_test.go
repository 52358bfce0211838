package lang

import (
	"bytes"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

// render writes diagnostics as a person would see them.
func render(files map[string]*hcl.File, diags hcl.Diagnostics) string {
	var b bytes.Buffer
	_ = WriteDiagnostics(&b, files, diags, false, 0)
	return b.String()
}

func mustLoad(t testing.TB, src string, opts Options) *Program {
	t.Helper()
	p, diags := LoadSource([]byte(src), "test.hcl", "testdata", fakeKinds(), opts)
	if len(diags) > 0 {
		t.Fatalf("unexpected diagnostics:\n%s", render(p.Files, diags))
	}
	return p
}

func TestDump(t *testing.T) {
	p, diags := Load("testdata/legal.hcl", fakeKinds(), Options{})
	if len(diags) > 0 {
		t.Fatalf("unexpected diagnostics:\n%s", render(p.Files, diags))
	}
	for _, n := range p.Nodes {
		t.Log(n.Addr, n.Needs, n.Outputs, n.Range("adapter.rank"))
		for _, in := range n.Inputs {
			t.Log("   ", in.Path, in.Ref, in.Range)
		}
	}
}
