package lang

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// CheckSyntax reports why src cannot be parsed. name is the file's, for the
// diagnostics; the map is for [WriteDiagnostics].
func CheckSyntax(src []byte, name string) (map[string]*hcl.File, hcl.Diagnostics) {
	files := map[string]*hcl.File{name: {Bytes: src}}
	if d := tooDeep(src, name); d != nil {
		return files, hcl.Diagnostics{d}
	}
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if f != nil {
		files[name] = f
	}
	return files, tidy(diags)
}

// Format lays a pipeline file out canonically: two spaces an indent, aligned
// equals signs. It changes white space only, and returns a file that cannot
// be parsed as it is.
func Format(src []byte) []byte {
	if tooDeep(src, "") != nil {
		return src
	}
	if _, diags := hclsyntax.ParseConfig(src, "", hcl.InitialPos); diags.HasErrors() {
		return src
	}
	// One pass can move what a second one moves again; it settles at once in
	// all but contrived files.
	for range 8 {
		out := hclwrite.Format(src)
		if string(out) == string(src) {
			break
		}
		src = out
	}
	return src
}
