package lang

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"pgregory.net/rapid"

	"pipe/runtime/artifact"
)

// specs returns the canonical specs, needs and outputs of a program by address.
// The digest of each handle is made from its address, so that what a handle
// refers to is in the specs too.
func specs(t testing.TB, p *Program) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, n := range p.Nodes {
		for _, in := range n.Inputs {
			copy(in.Ref.Digest[:], fmt.Sprintf("%-32.32s", in.Ref))
		}
	}
	for _, n := range p.Nodes {
		var spec any = n.Stage
		if n.Model != nil {
			spec = n.Model
		} else if n.Teacher != nil {
			spec = n.Teacher
		}
		js, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		outputs := map[string]string{}
		for name, r := range n.Outputs {
			outputs[name] = r.String()
		}
		out[n.Addr] = fmt.Sprint(string(js), n.Needs, outputs, n.Key)
	}
	return out
}

func sameSpecs(t interface{ Errorf(string, ...any) }, got, want map[string]string) {
	for addr := range want {
		if got[addr] != want[addr] {
			t.Errorf("%s changed:\ngot  %s\nwant %s", addr, got[addr], want[addr])
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d nodes, want %d", len(got), len(want))
	}
}

// topLevel cuts a file into its blocks.
func topLevel(t testing.TB, src []byte) []string {
	t.Helper()
	f, diags := hclsyntax.ParseConfig(src, "x", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var out []string
	for _, b := range f.Body.(*hclsyntax.Body).Blocks {
		out = append(out, string(b.Range().SliceBytes(src)))
		out[len(out)-1] = string(src[b.TypeRange.Start.Byte:b.CloseBraceRange.End.Byte])
	}
	return out
}

// Layout, comments, the order of blocks and the files they stand in change no
// decoded spec.
func TestLayoutChangesNothing(t *testing.T) {
	src, err := os.ReadFile("testdata/legal.hcl")
	if err != nil {
		t.Fatal(err)
	}
	want := specs(t, mustLoadFile(t, "testdata/legal.hcl", Options{}))
	blocks := topLevel(t, src)
	equal(t, "blocks", len(blocks), 18)
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		files := make([]string, rapid.IntRange(1, 3).Draw(rt, "files"))
		for _, b := range rapid.Permutation(blocks).Draw(rt, "order") {
			i := rapid.IntRange(0, len(files)-1).Draw(rt, "file")
			files[i] += layout(rt, b) + "\n"
		}
		for i := range 3 {
			name := filepath.Join(dir, fmt.Sprintf("%d.hcl", i))
			_ = os.Remove(name)
			if i < len(files) {
				if err := os.WriteFile(name, []byte(files[i]), 0o644); err != nil {
					rt.Fatal(err)
				}
			}
		}
		p, diags := Load(dir, fakeKinds(), Options{})
		if diags.HasErrors() {
			rt.Fatalf("%s", render(p.Files, diags))
		}
		sameSpecs(rt, specs(t, p), want)
	})
}

// layout changes white space and comments of a block; the recipe has no
// strings or heredocs over several lines.
func layout(rt *rapid.T, block string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(block, "\n") {
		switch rapid.IntRange(0, 4).Draw(rt, "layout") {
		case 0:
			line = strings.Repeat(" ", rapid.IntRange(0, 9).Draw(rt, "indent")) + strings.TrimSpace(line)
		case 1:
			line += " // said of this line"
		case 2:
			line = "# said before\n\n" + line
		case 3:
			line = strings.Replace(line, " = ", "   =/* why */", 1)
		}
		b.WriteString(line + "\n")
	}
	if rapid.Bool().Draw(rt, "formatted") {
		return string(Format([]byte(b.String())))
	}
	return b.String()
}

// The name of a variable, and whether a value comes from a variable, a local
// or stands there itself, change no decoded spec.
func TestIndirectionChangesNothing(t *testing.T) {
	const form = `%s
data "docs" { source = "x" }
dedup "clean" {
  input     = %s
  threshold = %s
}`
	want := specs(t, mustLoad(t, fmt.Sprintf(form, "", "data.docs", "0.5"), Options{}))
	for _, tc := range [][3]string{
		{`variable "t" { default = 0.5 }`, "data.docs", "var.t"},
		{`variable "renamed" { default = "0.5" }`, `data["docs"]`, "var.renamed"},
		{"locals {\n a = local.b / 2\n b = 1\n d = data.docs\n}", "local.d", "local.a"},
		{"", "true ? data.docs : data.docs", "min(0.5, 1)"},
		{"", "[data.docs][0]", "5e-1"},
	} {
		got := specs(t, mustLoad(t, fmt.Sprintf(form, tc[0], tc[1], tc[2]), Options{}))
		sameSpecs(t, got, want)
	}
}

// Loading is a function of its input: twice the same, whatever map order did.
func TestLoadIsDeterministic(t *testing.T) {
	paths, err := filepath.Glob("testdata/errors/*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, "testdata/legal.hcl") {
		p, diags := Load(path, fakeKinds(), Options{})
		first := render(p.Files, diags) + fmt.Sprint(addrs(p))
		for range 5 {
			p, diags := Load(path, fakeKinds(), Options{})
			if again := render(p.Files, diags) + fmt.Sprint(addrs(p)); again != first {
				t.Fatalf("%s: two loads differ:\n%s\n%s", path, first, again)
			}
		}
	}
}

func TestFormat(t *testing.T) {
	src := "data \"docs\" {\nsource=\"x\" # why\n   other    = [1,2]\n}"
	want := "data \"docs\" {\n  source = \"x\" # why\n  other  = [1, 2]\n}"
	equal(t, "formatted", string(Format([]byte(src))), want)
	equal(t, "again", string(Format([]byte(want))), want)
	for _, broken := range []string{"data {", "a = = 1", strings.Repeat("[", 5000)} {
		equal(t, "what cannot be parsed", string(Format([]byte(broken))), broken)
	}
}

// chain is a pipeline of n stages, each fed by the one before and by the data.
func chain(n int) []byte {
	var b strings.Builder
	b.WriteString("data \"docs\" { source = \"x\" }\ndedup \"s0\" { input = data.docs }\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "dedup \"s%d\" {\n  input = dedup.s%d.dataset\n  threshold = 0.5\n  decontaminate {\n    against = [data.docs]\n    ngram = 8\n  }\n}\n", i, i-1)
	}
	return []byte(b.String())
}

// The work of loading is linear in the file: references are resolved a fixed
// number of times, and each scope holds only what its block refers to.
func TestLoadIsLinear(t *testing.T) {
	work := func(n int) int {
		l := newLoader(fakeKinds(), Options{})
		l.parse(chain(n), "chain.hcl")
		if _, diags := l.load(); diags.HasErrors() {
			t.Fatal(diags)
		}
		return l.visited
	}
	small, large := work(200), work(2000)
	if large > 11*small {
		t.Errorf("2000 stages take %d steps, 200 take %d", large, small)
	}
}

// BenchmarkLoad measures what every command pays before it does anything.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			src := chain(n)
			for b.Loop() {
				p, diags := LoadSource(src, "chain.hcl", ".", fakeKinds(), Options{})
				if diags.HasErrors() || len(p.Nodes) != n+1 {
					b.Fatal(diags)
				}
			}
		})
	}
}

// FuzzLoad: no input panics, every diagnostic lies inside of its file, a
// program without errors is whole, and Format is idempotent.
func FuzzLoad(f *testing.F) {
	paths, _ := filepath.Glob("testdata/errors/*.hcl")
	modules, _ := filepath.Glob("testdata/errors/modules/*/*.hcl")
	recipes, _ := filepath.Glob("../../pipelines/*.hcl")
	for _, path := range slices.Concat(paths, modules, recipes, []string{"testdata/legal.hcl"}) {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1<<16 {
			return
		}
		p, diags := LoadSource(src, "fuzz.hcl", "testdata/errors", fakeKinds(), Options{})
		checkRanges(t, p, diags)
		if text := render(p.Files, diags); diags.HasErrors() && text == "" {
			t.Error("an error renders as nothing")
		}
		if !diags.HasErrors() {
			checkProgram(t, p)
		}
		once := Format(src)
		if again := Format(once); string(again) != string(once) {
			t.Errorf("Format is not idempotent:\n%q\n%q", once, again)
		}
	})
}

func checkRanges(t *testing.T, p *Program, diags hcl.Diagnostics) {
	t.Helper()
	for _, d := range diags {
		if d.Subject == nil {
			t.Errorf("no position: %s", d.Error())
			continue
		}
		s := d.Subject
		f := p.Files[s.Filename] // fuzz.hcl, or that of a module
		if f == nil || s.Start.Byte < 0 || s.End.Byte < s.Start.Byte || s.End.Byte > len(f.Bytes) {
			t.Errorf("range %v (%d to %d) lies outside of its file: %s", s, s.Start.Byte, s.End.Byte, d.Error())
		}
	}
}

func checkProgram(t *testing.T, p *Program) {
	t.Helper()
	done := map[string]artifact.Type{}
	for _, n := range p.Nodes {
		for _, need := range n.Needs {
			if _, ok := done[need]; !ok {
				t.Errorf("%s needs %s, which does not stand before it", n.Addr, need)
			}
		}
		for _, in := range n.Inputs {
			if in.Ref.Type == "" || in.Ref.Addr == "" {
				t.Errorf("%s: input %s is empty", n.Addr, in.Path)
			}
		}
		done[n.Addr] = ""
	}
}
