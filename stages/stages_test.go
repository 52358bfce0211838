package stages

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// TestKinds holds every kind to what its folder promises: the name, documents,
// an example that reads, and a doc for every attribute and output.
func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range All {
		t.Run(k.Name, func(t *testing.T) {
			if seen[k.Name] {
				t.Fatal("it is listed twice")
			}
			seen[k.Name] = true
			if k.Version < 1 || len(k.Outputs) == 0 || !strings.HasPrefix(k.Doc, "# "+k.Name) || !strings.Contains(k.Doc, "```hcl") {
				t.Errorf("version %d, %d outputs, doc %.40q", k.Version, len(k.Outputs), k.Doc)
			}
			readme, err := os.ReadFile(filepath.Join(k.Name, "README.md"))
			if err != nil || string(readme) != k.Doc {
				t.Errorf("the doc is not %s/README.md: %v", k.Name, err)
			}
			for _, o := range k.Outputs {
				if o.Doc == "" {
					t.Errorf("output %q has no doc", o.Name)
				}
				if (o.Type == artifact.Dataset) != (o.Rows != "") {
					t.Errorf("output %q is a %s of rows %q", o.Name, o.Type, o.Rows)
				}
				if o.Alias == "" && o.Name != "" && !strings.Contains(k.Doc, "`"+o.Name+"`") {
					t.Errorf("the README does not name output `%s`", o.Name)
				}
			}
			docs(t, reflect.TypeOf(k.New()).Elem(), k.Name)
			if a, b := k.New(), k.New(); !reflect.DeepEqual(a, b) {
				t.Error("New gives different defaults")
			}
			example := filepath.Join(k.Name, "example.hcl")
			prog, diags := lang.Load(example, All, lang.Options{})
			if diags.HasErrors() {
				var b strings.Builder
				lang.WriteDiagnostics(&b, prog.Files, diags, false, 0)
				t.Errorf("%s:\n%s", example, b.String())
			}
			if tests, _ := filepath.Glob(filepath.Join(k.Name, "*_test.go")); len(tests) == 0 {
				t.Error("the folder has no tests")
			}
		})
	}
	dirs, err := filepath.Glob("*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !seen[filepath.Dir(d)] {
			t.Errorf("folder %s has no kind in All", filepath.Dir(d))
		}
	}
}

// TestBlocksThatStandOnce: a second block of those that a spec holds one of is
// an error at the second, which names the first. It holds for every kind.
func TestBlocksThatStandOnce(t *testing.T) {
	once := func(k string, name, label string) {
		src := k + " \"x\" {\n  " + name + label + " {\n  }\n  " + name + label + " {\n  }\n}\n"
		_, diags := lang.LoadSource([]byte(src), "p.hcl", t.TempDir(), All, lang.Options{})
		for _, d := range diags {
			if d.Summary == "Duplicate block" && d.Subject.Start.Line == 4 && strings.Contains(d.Detail, "p.hcl:2,") {
				return
			}
		}
		t.Errorf("%s: two %s blocks: got %v", k, name, diags)
	}
	blocks := 0
	for _, k := range All {
		for _, f := range lang.Fields(k) {
			if f.Type != "block" || f.Many {
				continue
			}
			label := ""
			if len(f.Fields) > 0 && f.Fields[0].Label {
				label = ` "lora"`
			}
			once(k.Name, f.Name, label)
			blocks++
		}
		for _, meta := range []string{"resources", "checkpoint", "retry"} {
			once(k.Name, meta, "")
		}
	}
	if blocks < 4 { // adapter twice, decontaminate, needle
		t.Errorf("only %d blocks were found", blocks)
	}
}

// TestCheckpointBlock: the block is the attributes of stages that save
// checkpoints, and an error elsewhere; resources are said to have no effect.
func TestCheckpointBlock(t *testing.T) {
	const head = "model \"m\" {\n source = \"embedded://tiny\"\n}\ndata \"d\" {\n source = \"d.jsonl\"\n"
	const packed = "pack \"p\" {\n input = data.d\n model = model.m\n seq_len = 8\n}\n"
	load := func(inData, inSFT string) (*lang.Program, string) {
		src := head + inData + "}\n" + packed + "sft \"x\" {\n base = model.m\n data = pack.p.dataset\n" + inSFT + "}\n"
		p, diags := lang.LoadSource([]byte(src), "p.hcl", t.TempDir(), All, lang.Options{})
		return p, diags.Error()
	}
	p, text := load("", "checkpoint {\n every = 7\n save_total_limit = 2\n}\n")
	s := p.Node("sft.x")
	if s == nil {
		t.Fatal(text)
	}
	v := reflect.ValueOf(s.Stage).Elem()
	if v.FieldByName("CheckpointEvery").Int() != 7 || v.FieldByName("SaveTotalLimit").Int() != 2 {
		t.Errorf("the block was not acted on: %+v", v)
	}
	for want, blocks := range map[string][2]string{
		"data stages save no checkpoints":   {"checkpoint {}\n", ""},
		"write one of them":                 {"", "checkpoint_every = 3\ncheckpoint {\n every = 7\n}\n"},
		"does not reserve":                  {"", "resources {\n gpus = 1\n}\n"},
		"checkpoint_every is -1; must be 0": {"", "checkpoint {\n every = -1\n}\n"},
	} {
		if _, text := load(blocks[0], blocks[1]); !strings.Contains(text, want) {
			t.Errorf("got %q, want %q", text, want)
		}
	}
}

// docs checks that every attribute of a spec is documented, in blocks too.
func docs(t *testing.T, typ reflect.Type, at string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, ok := f.Tag.Lookup("hcl")
		if !ok {
			if f.Anonymous && f.Type.Kind() == reflect.Struct {
				docs(t, f.Type, at)
			}
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		if f.Tag.Get("doc") == "" && kind != "remain" && name != "name" { // a label called name says it all
			t.Errorf("%s.%s has no doc", at, name)
		}
		for e := f.Type; kind == "block"; e = e.Elem() {
			if e.Kind() == reflect.Struct {
				docs(t, e, at+"."+name)
				break
			}
			if e.Kind() != reflect.Pointer && e.Kind() != reflect.Slice {
				break
			}
		}
	}
}
