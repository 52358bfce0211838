package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/runtime/lang"
)

// FuzzRecipe: no pipeline file makes a stage panic while it is decoded and
// checked, which happens before anybody has agreed to run it.
func FuzzRecipe(f *testing.F) {
	paths, err := filepath.Glob("../pipelines/*.hcl")
	if err != nil || len(paths) == 0 {
		f.Fatal(paths, err)
	}
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	const inputs = "data \"docs\" { source = \"./x\" }\nmodel \"base\" { source = \"./m\" }\nteacher \"local\" {\n provider = \"local\"\n model = model.base\n}\n"
	for _, k := range All {
		for rest := k.Doc; ; {
			_, code, ok := strings.Cut(rest, "```hcl\n")
			if !ok {
				break
			}
			code, rest, _ = strings.Cut(code, "```")
			f.Add(inputs + code)
		}
		f.Add(inputs + k.Name + " \"x\" {\n" + everyAttribute(lang.Fields(k), "  ") + "}\n")
	}
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) > 1<<16 {
			return
		}
		p, diags := lang.LoadSource([]byte(src), "fuzz.hcl", "testdata/none", All, lang.Options{})
		if !diags.HasErrors() && p.Graph == nil {
			t.Error("a pipeline without errors has no graph")
		}
	})
}

// everyAttribute writes each attribute and block that fields document.
func everyAttribute(fields []lang.Field, indent string) string {
	var b strings.Builder
	for _, f := range fields {
		switch {
		case f.Label:
		case f.Type == "block":
			label := ""
			for _, sub := range f.Fields {
				if sub.Label {
					label += " \"lora\""
				}
			}
			b.WriteString(indent + f.Name + label + " {\n" + everyAttribute(f.Fields, indent+"  ") + indent + "}\n")
		default:
			b.WriteString(indent + f.Name + " = " + sampleOf(f) + "\n")
		}
	}
	return b.String()
}

func sampleOf(f lang.Field) string {
	switch {
	case f.Default != "":
		return f.Default
	case strings.Contains(f.Type, "dataset"):
		return "data.docs"
	case strings.Contains(f.Type, "model"):
		return "model.base"
	case f.Type == "teacher":
		return "teacher.local"
	case strings.HasPrefix(f.Type, "list"):
		return "[1]"
	case f.Type == "string":
		return `"x"`
	}
	return "1"
}
