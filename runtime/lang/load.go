package lang

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/stage"
)

// maxFile bounds one pipeline file, and one file read by file().
const maxFile = 16 << 20

// Load reads the pipeline in a file, or in all *.hcl files of a directory.
//
// The Program is never nil, so that diagnostics can be written with its Files;
// if the diagnostics have errors, nothing else of it may be used.
func Load(path string, kinds []stage.Kind, opts Options) (*Program, hcl.Diagnostics) {
	l := newLoader(kinds, opts)
	l.prog.Name = strings.TrimSuffix(filepath.Base(path), ".hcl")
	l.prog.Dir = filepath.Dir(path)
	names, isDir, err := l.hclFiles(path)
	switch {
	case err != nil:
		l.fail("Cannot read the pipeline", "%s; name a pipeline file or a directory that holds *.hcl files", ioReason(path, err))
	case !isDir:
		names = []string{path}
	default:
		l.prog.Dir = path
		if abs, err := filepath.Abs(path); err == nil {
			l.prog.Name = filepath.Base(abs)
		}
		if len(names) == 0 {
			l.fail("Cannot read the pipeline", "%s holds no *.hcl file", path)
		}
	}
	if l.diags.HasErrors() {
		return l.prog, l.diags
	}
	for _, name := range names {
		src, err := l.read(name)
		if err != nil {
			l.fail("Cannot read the pipeline", "%s", ioReason(name, err))
			continue
		}
		l.parse(src, name)
	}
	return l.load()
}

// LoadSource is Load for a file that is already in memory; name stands for it
// in diagnostics, and dir is its directory.
func LoadSource(src []byte, name, dir string, kinds []stage.Kind, opts Options) (*Program, hcl.Diagnostics) {
	l := newLoader(kinds, opts)
	l.prog.Name = strings.TrimSuffix(filepath.Base(name), ".hcl")
	l.prog.Dir = dir
	l.parse(src, name)
	return l.load()
}

// NameOf returns the name that Load gives to the pipeline in a file, which need
// not be valid otherwise.
func NameOf(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), ".hcl")
	src, err := readFile(path)
	if err != nil || tooDeep(src, path) != nil {
		return name
	}
	f, _ := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	if body, ok := f.Body.(*hclsyntax.Body); ok {
		for _, b := range body.Blocks {
			if b.Type == "pipeline" && len(b.Labels) == 1 {
				return b.Labels[0]
			}
		}
	}
	return name
}

// hclFiles returns the *.hcl files directly in path, sorted, without hidden
// ones, or none if path is not a directory. It notes path, found or not.
func (l *loader) hclFiles(path string) (names []string, isDir bool, err error) {
	l.watch(path)
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return nil, false, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, true, err
	}
	for _, e := range entries {
		n := e.Name()
		if !e.IsDir() && strings.HasSuffix(n, ".hcl") && !strings.HasPrefix(n, ".") {
			names = append(names, filepath.Join(path, n))
		}
	}
	return names, true, nil
}

// watch notes that the program depends on the state of a file or directory.
func (l *loader) watch(name string) {
	if !l.noted[name] {
		l.noted[name] = true
		l.prog.Watched = append(l.prog.Watched, name)
	}
}

// read is readFile, and notes the name.
func (l *loader) read(name string) ([]byte, error) {
	l.watch(name)
	return readFile(name)
}

// readNamed is read of a file that an expression names.
func (l *loader) readNamed(name string) ([]byte, error) {
	b, err := l.read(name)
	if err == nil {
		l.noteRead(name)
	}
	return b, err
}

// readFile reads a regular file of at most maxFile bytes.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("is not a regular file")}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("is larger than %d MiB", maxFile>>20)}
	}
	return b, nil
}

// ioReason says what is wrong with a file, without the name of a system call.
func ioReason(name string, err error) string {
	reason := err.Error()
	if pe, ok := err.(*fs.PathError); ok {
		reason = pe.Err.Error()
	}
	return name + ": " + reason
}

// A loader turns blocks into a Program. It collects every diagnostic and goes
// on as far as the rest still makes sense.
type loader struct {
	prog  *Program
	kinds map[string]*stage.Kind
	opts  Options
	diags hcl.Diagnostics

	root    *module
	modules []*module             // all of them, each after the one that calls it
	parsed  map[string]*parsedDir // directories of modules, by path
	decls   map[string]*decl      // "sft.legal", "local.x", "module.prep.var.docs"
	order   []*decl               // in the order of the files
	header  *hclsyntax.Block      // the pipeline block, if any
	envs    map[string]bool       // names that env() may read
	plans   plans
	noted   map[string]bool // names in prog.Watched
	held    int64           // bytes of the values made so far
	visited int             // references resolved and values put in scopes: the work done, for tests
}

// A decl is something that expressions may refer to.
type decl struct {
	addr, typ, name string
	mod             *module
	index           int
	block           *hclsyntax.Block     // nil for a local value
	attr            *hclsyntax.Attribute // of a local value
	variable        *variable            // of a variable block
	kind            *stage.Kind          // nil for model, teacher, locals and variables
	outputs         []stage.Output       // of blocks

	uses map[string]hcl.Range // what it refers to, and where first

	value  cty.Value
	weight *weight // of the value, once it was asked for
	broken bool    // value is not known because of an error already reported
	swept  bool
	cyclic bool // lies on a cycle of references
	off    bool // when = false
	nodes  []*Node
}

func (d *decl) header() hcl.Range {
	if d.block == nil {
		return d.attr.NameRange
	}
	return headerRange(d.block)
}

func headerRange(b *hclsyntax.Block) hcl.Range {
	r := b.TypeRange
	if n := len(b.LabelRanges); n > 0 {
		r = hcl.RangeBetween(r, b.LabelRanges[n-1])
	}
	return r
}

func newLoader(kinds []stage.Kind, opts Options) *loader {
	if opts.Env == nil {
		opts.Env = func(string) (string, bool) { return "", false }
	}
	l := &loader{
		prog:   &Program{Files: map[string]*hcl.File{}, Given: map[string]string{}, byAddr: map[string]*Node{}},
		kinds:  map[string]*stage.Kind{},
		opts:   opts,
		root:   &module{files: map[string]bool{}},
		parsed: map[string]*parsedDir{},
		decls:  map[string]*decl{},
		envs:   map[string]bool{},
		plans:  plans{},
		noted:  map[string]bool{},
	}
	for i := range kinds {
		l.kinds[kinds[i].Name] = &kinds[i]
	}
	return l
}

// fail records an error that has no place in a file.
func (l *loader) fail(summary, format string, args ...any) {
	l.diags = append(l.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...)})
}

func (l *loader) errorAt(r hcl.Range, summary, format string, args ...any) {
	l.diags = append(l.diags, errorAt(r, summary, format, args...))
}

// parse parses a file of the pipeline itself.
func (l *loader) parse(src []byte, name string) {
	if body := l.parseFile(src, name); body != nil {
		l.root.bodies = append(l.root.bodies, body)
	}
	l.root.files[name] = true
}

// parseFile returns nil beside an error.
func (l *loader) parseFile(src []byte, name string) *hclsyntax.Body {
	l.prog.Files[name] = &hcl.File{Bytes: src}
	if d := tooDeep(src, name); d != nil {
		l.diags = append(l.diags, d)
		return nil
	}
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	l.prog.Files[name] = f
	l.diags = append(l.diags, diags...)
	if body, ok := f.Body.(*hclsyntax.Body); ok && !diags.HasErrors() {
		return body
	}
	return nil
}

// load works through the parsed bodies: declarations, then references, then
// values in topological order.
func (l *loader) load() (*Program, hcl.Diagnostics) {
	if !l.diags.HasErrors() {
		l.root.dir = l.prog.Dir
		l.declareModule(l.root)
		l.readEnv()
		for _, m := range l.modules {
			m.funcs = functions(directory{m.dir, m.checkout, l.readNamed}, l.readDeclaredEnv)
		}
		l.evalVariables()
		for _, m := range l.modules[1:] {
			l.within(m, func() { l.readInputs(m) })
		}
		l.evalHeader()
		for _, d := range l.order {
			l.within(d.mod, func() { l.findUses(d) })
		}
		for _, d := range l.sorted() {
			l.within(d.mod, func() { l.evaluate(d) })
		}
		if !l.diags.HasErrors() {
			l.connect()
		}
		if !l.diags.HasErrors() {
			l.warnEmpty()
			l.warnResources()
		}
	}
	l.diags = tidy(l.diags)
	return l.prog, l.diags
}

// warnEmpty says of a pipeline without blocks that it has none.
func (l *loader) warnEmpty() {
	if slices.ContainsFunc(l.root.bodies, func(b *hclsyntax.Body) bool { return len(b.Blocks) > 0 }) {
		return
	}
	has := " has"
	names := slices.Sorted(maps.Keys(l.root.files))
	if len(names) > 1 {
		has = " have"
	}
	l.diags = append(l.diags, &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: "Empty pipeline",
		Detail: strings.Join(names, ", ") + has + " no blocks: there is nothing to run. pipe help lists the blocks there are."})
}

// noteRead notes a file that a function read.
func (l *loader) noteRead(name string) {
	if i, have := slices.BinarySearch(l.prog.Reads, name); !have {
		l.prog.Reads = slices.Insert(l.prog.Reads, i, name)
	}
}

// attributesOf returns the attributes of a body in the order of the file.
func attributesOf(b *hclsyntax.Body) []*hclsyntax.Attribute {
	out := make([]*hclsyntax.Attribute, 0, len(b.Attributes))
	for _, a := range b.Attributes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.SrcRange.Start.Byte, b.SrcRange.Start.Byte)
	})
	return out
}
