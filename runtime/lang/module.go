package lang

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

const (
	maxModuleDepth = 16   // module blocks inside modules
	maxModules     = 1000 // module blocks of a pipeline, each use counted
)

// A module is the pipeline itself, or one module block: a namespace. All of
// them share one graph, so that a module waits for nothing that it does not use.
type module struct {
	prefix   string // of the addresses in it: "" or "module.prep."
	name     string // label of the block
	dir      string // where relative paths in it start
	checkout string // what nothing in it may lead out of; "" when it was not fetched
	parent   *module
	call     *decl // the module block; nil for the pipeline itself
	bodies   []*hclsyntax.Body
	files    map[string]bool // names of its files
	children map[string]*module
	vars     []*variable
	funcs    map[string]function.Function
}

// A parsedDir is the directory of a module. Each use of the module declares
// the blocks in it anew.
type parsedDir struct {
	bodies []*hclsyntax.Body
	files  map[string]bool
	ok     bool
}

// callOnly are the attributes of a module block that are not inputs, and what
// to do instead of those that do not exist.
var callOnly = map[string]string{
	"source":     "",
	"for_each":   "a module block stands for one use of the module; write for_each in the blocks of the module, over a map that is a variable of it, or several module blocks",
	"count":      "there is no count; write several module blocks",
	"when":       "write when in the blocks of the module, with a variable of it",
	"depends_on": "a block waits for what it refers to; write depends_on in the blocks of the module",
	"version":    "the version of a module is part of its source: git::https://HOST/REPO.git//DIR?ref=v1",
}

// within runs f and marks the diagnostics that it adds as reached by m.
func (l *loader) within(m *module, f func()) {
	from := len(l.diags)
	f()
	for _, d := range l.diags[from:] {
		for at := m; at != nil && d.Extra == nil && d.Subject != nil; at = at.parent {
			if at.files[d.Subject.Filename] && at.call != nil {
				d.Extra = at
			} else if at.files[d.Subject.Filename] {
				break
			}
		}
	}
}

// reached says by which module block the module is used.
func (m *module) reached() string {
	r := m.call.header()
	return fmt.Sprintf("%s (%s:%d)", m.call.addr, r.Filename, r.Start.Line)
}

// declareModule notes what m declares, and what the modules that it uses do.
func (l *loader) declareModule(m *module) {
	l.modules = append(l.modules, m)
	m.children = map[string]*module{}
	l.within(m, func() {
		for _, b := range m.bodies {
			l.declare(m, b)
		}
	})
}

// declareCall notes a module block and loads the module.
func (l *loader) declareCall(m *module, b *hclsyntax.Block) {
	name, ok := l.label(b)
	if !ok {
		return
	}
	d := &decl{mod: m, typ: "module", name: name, block: b, broken: true}
	if l.add(d); l.decls[m.prefix+"module."+name] != d {
		return
	}
	for _, inner := range b.Body.Blocks {
		l.errorAt(inner.TypeRange, "Unknown block", "A module block holds source and values for the variables of the module; write %s = { ... } for an object.", inner.Type)
	}
	child := &module{prefix: m.prefix + "module." + name + ".", name: name, parent: m, call: d}
	source, at, ok := l.moduleSource(d)
	if !ok || !l.locate(child, source, at) || !l.open(child, source, at) {
		return
	}
	d.broken = false
	m.children[name] = child
	l.prog.Modules = append(l.prog.Modules, ModuleCall{Addr: d.addr, Source: source, Dir: child.dir, Checkout: child.checkout})
	l.declareModule(child)
}

// moduleSource returns the source of a module block, a constant.
func (l *loader) moduleSource(d *decl) (source string, at hcl.Range, ok bool) {
	a := d.block.Body.Attributes["source"]
	if a == nil {
		l.errorAt(d.header(), "Missing attribute", "module %q needs source: a directory such as \"./modules/%s\", or \"git::https://HOST/REPO.git//DIR?ref=v1\".", d.name, d.name)
		return "", hcl.Range{}, false
	}
	source, ok = l.constant(a, cty.String).(string)
	return source, a.Expr.Range(), ok
}

// locate finds the directory of a module.
func (l *loader) locate(m *module, source string, at hcl.Range) bool {
	local := strings.HasPrefix(source, "./") || strings.HasPrefix(source, "../") || source == "." || source == ".." || filepath.IsAbs(source)
	switch {
	case local:
		m.dir, m.checkout = source, m.parent.checkout
		if !filepath.IsAbs(source) {
			m.dir = filepath.Join(m.parent.dir, source)
		}
		if m.checkout != "" && !Inside(m.dir, m.checkout) {
			l.errorAt(at, "Module cannot be used", "%s lies outside of what was fetched with the module; a fetched module uses what is in its repository, or another one by git::.", source)
			return false
		}
	case l.opts.Module != nil && strings.HasPrefix(source, "git::"):
		dir, checkout, err := l.opts.Module(source)
		if err != nil {
			l.errorAt(at, "Module cannot be used", "%s.", strings.TrimSuffix(err.Error(), "."))
			return false
		}
		m.dir, m.checkout = dir, checkout
	default:
		l.errorAt(at, "Invalid value", "source is %q; it must be a directory that begins with ./ or ../, or a repository: \"git::https://HOST/REPO.git//DIR?ref=v1\".", source)
		return false
	}
	return true
}

// open parses the files of a module.
func (l *loader) open(m *module, source string, at hcl.Range) bool {
	depth := 0
	for p := m.parent; p != nil; p = p.parent {
		if depth++; sameDir(p.dir, m.dir) {
			what := "the pipeline itself"
			if p.call != nil {
				what = p.call.addr
			}
			l.errorAt(at, "Module cycle", "%s is the directory of %s, in which this block stands: it would hold itself without end.", source, what)
			return false
		}
	}
	if depth > maxModuleDepth || len(l.modules) >= maxModules {
		l.errorAt(at, "Too many modules", "Modules are nested at most %d deep, and a pipeline uses at most %d.", maxModuleDepth, maxModules)
		return false
	}
	p := l.parsed[m.dir]
	if p == nil {
		p = l.parseDir(m, source, at)
		l.parsed[m.dir] = p
	} else if !p.ok {
		l.errorAt(at, "Module cannot be used", "There are errors in %s.", source)
	}
	m.bodies, m.files = p.bodies, p.files
	return p.ok
}

func (l *loader) parseDir(m *module, source string, at hcl.Range) *parsedDir {
	p := &parsedDir{files: map[string]bool{}}
	names, isDir, err := l.hclFiles(m.dir)
	switch {
	case err != nil:
		l.errorAt(at, "Module cannot be used", "%s.", ioReason(m.dir, err))
		return p
	case !isDir:
		l.errorAt(at, "Module cannot be used", "%s is a file; a module is a directory of *.hcl files.", source)
		return p
	case len(names) == 0:
		l.errorAt(at, "Module cannot be used", "%s holds no *.hcl file.", source)
		return p
	}
	m.files = p.files
	p.ok = true
	l.within(m, func() {
		for _, name := range names {
			if m.checkout != "" && !Inside(name, m.checkout) {
				l.errorAt(at, "Module cannot be used", "%s is a link out of what was fetched.", name)
				p.ok = false
				continue
			}
			src, err := l.read(name)
			if err != nil {
				l.errorAt(at, "Module cannot be used", "%s.", ioReason(name, err))
				p.ok = false
				continue
			}
			p.files[name] = true
			if body := l.parseFile(src, name); body != nil {
				p.bodies = append(p.bodies, body)
			} else {
				p.ok = false
			}
		}
	})
	return p
}

// argument returns the attribute of the module block that gives the variable
// its value; nil when the block has none, and for the pipeline itself.
func (d *decl) argument() *hclsyntax.Attribute {
	if d.typ != "var" || d.mod.call == nil {
		return nil
	}
	a := d.mod.call.block.Body.Attributes[d.name]
	if a == nil || isNullLiteral(a.Expr) {
		return nil
	}
	return a
}

// readInputs reads the variables of a module but for the values that its block
// gives, which may need other blocks first.
func (l *loader) readInputs(m *module) {
	var names []string
	for _, v := range m.vars {
		names = append(names, v.decl.name)
		l.readVariable(v)
		if _, taken := callOnly[v.decl.name]; taken {
			l.errorAt(v.decl.header(), "Invalid name", "A module block uses %s itself; give the variable another name.", v.decl.name)
		}
		if v.decl.argument() == nil {
			l.giveDefault(m, v)
			l.validate(v)
		}
	}
	for _, a := range attributesOf(m.call.block.Body) {
		if slices.Contains(names, a.Name) || a.Name == "source" {
			continue
		}
		hint, reserved := callOnly[a.Name]
		if reserved {
			hint = " Here, " + hint + "."
		} else if hint = didYouMean(a.Name, names, "%s"); hint == "" {
			hint = " It declares none."
			if len(names) > 0 {
				hint = " It has " + list(names) + "."
			}
		}
		l.errorAt(a.NameRange, "Unknown attribute", "module %q has no variable %q.%s", m.name, a.Name, hint)
	}
}

func (l *loader) giveDefault(m *module, v *variable) {
	d := v.decl
	d.broken = true
	if v.dflt == cty.NilVal {
		doc := ""
		if v.description != "" {
			doc = ": " + v.description
		}
		l.errorAt(m.call.header(), "Missing attribute", "module %q needs %s (%s%s); write %s = ....", m.name, d.name, v.takes(), doc, d.name)
		return
	}
	l.setValue(v, l.convertVariable(v, v.dflt, d.block.Body.Attributes["default"].Expr.Range(), ""))
}

// evalInput gives a variable the value that the module block has for it.
func (l *loader) evalInput(d *decl) {
	a := d.argument()
	if a == nil {
		return
	}
	d.broken = true
	val, ok, diags := l.scopeIn(d.mod.parent, d).eval(a.Expr)
	l.diags = append(l.diags, diags...)
	if !ok {
		return
	}
	v := d.variable
	if v.handle != "" {
		val = l.convertHandles(v, val, a.Expr)
	} else {
		val = l.convertVariable(v, val, a.Expr.Range(), "")
	}
	l.setValue(v, val)
	l.validate(v)
}

// evalOutput evaluates an output block.
func (l *loader) evalOutput(d *decl) {
	d.broken = true
	value := d.block.Body.Attributes["value"]
	if value == nil {
		return // reported where it was declared
	}
	v, ok, diags := l.scope(d).eval(value.Expr)
	l.diags = append(l.diags, diags...)
	d.value, d.broken = v, !ok
}

// declareOutput notes an output block, what others may refer to.
func (l *loader) declareOutput(m *module, b *hclsyntax.Block) {
	name, ok := l.label(b)
	if !ok {
		return
	}
	known := []string{"value", "description"}
	for _, a := range attributesOf(b.Body) {
		switch a.Name {
		case "value":
		case "description":
			l.constant(a, cty.String)
		default:
			l.errorAt(a.NameRange, "Unknown attribute", "An output block has no attribute %q.%s It has %s.", a.Name, didYouMean(a.Name, known, "%s"), list(known))
		}
	}
	for _, inner := range b.Body.Blocks {
		l.errorAt(inner.TypeRange, "Unknown block", "An output block holds value and description only.")
	}
	if b.Body.Attributes["value"] == nil {
		l.errorAt(headerRange(b), "Missing attribute", "output %q needs value, what it stands for; write value = KIND.NAME.OUTPUT.", name)
	}
	l.add(&decl{mod: m, typ: "output", name: name, block: b})
}

// resolveModule resolves a reference to an output of a module.
func (l *loader) resolveModule(m *module, t hcl.Traversal) (string, *hcl.Diagnostic) {
	at := t.SourceRange()
	if len(t) < 2 || stepName(t[1]) == "" {
		return "", errorAt(at, "Incomplete reference", "Write module.NAME.OUTPUT.%s", l.declared(m, "module"))
	}
	addr := "module." + stepName(t[1])
	d := l.decls[m.prefix+addr]
	switch {
	case d == nil:
		return "", errorAt(at, "Undeclared reference", "There is no %s.%s", addr, l.meant(m, "module", addr))
	case d.broken:
		return d.addr, nil
	}
	child := m.children[stepName(t[1])]
	outputs := l.namesOf(child, "output")
	for i := range outputs {
		outputs[i] = strings.TrimPrefix(outputs[i], "output.")
	}
	has := " It has no outputs."
	if len(outputs) > 0 {
		has = " Its outputs are " + list(outputs) + "."
	}
	if len(t) < 3 || stepName(t[2]) == "" {
		return "", errorAt(at, "Incomplete reference", "Write %s.OUTPUT.%s", addr, has)
	}
	name := stepName(t[2])
	if out := l.decls[child.prefix+"output."+name]; out != nil {
		return out.addr, nil
	}
	hint := didYouMean(name, outputs, addr+".%s")
	if hint == "" {
		hint = has
	}
	if l.isRoot(name) {
		hint = fmt.Sprintf(" What is inside a module is reached by its outputs: write output \"NAME\" { value = %s.... } in the module.", name)
	}
	return "", errorAt(at, "Unknown output", "%s has no output %q.%s", addr, name, hint)
}

// checkPath judges a reference to path.
func (l *loader) checkPath(m *module, t hcl.Traversal) *hcl.Diagnostic {
	at := t.SourceRange()
	if len(t) != 2 || stepName(t[1]) != "root" && stepName(t[1]) != "module" {
		return errorAt(at, "Invalid reference", "Write path.root, the directory of the pipeline file, or path.module, that of the file in which this stands.")
	}
	if stepName(t[1]) == "root" && m.checkout != "" {
		return errorAt(at, "Invalid reference", "A fetched module does not know where the pipeline lies; make what it needs from there a variable, such as a dataset.")
	}
	return nil
}

// pathVal is path as seen from m, whose own directory is where its paths start.
func (l *loader) pathVal(m *module) cty.Value {
	root := "."
	if rel, err := filepath.Rel(m.dir, l.root.dir); err == nil && m.checkout == "" {
		root = filepath.ToSlash(rel)
	}
	return cty.ObjectVal(map[string]cty.Value{"root": cty.StringVal(root), "module": cty.StringVal(".")})
}

// placeJournal makes the path of a teacher's journal good for every stage that
// uses the teacher, wherever that one stands.
func (l *loader) placeJournal(m *module, n *Node) {
	if n.Teacher == nil {
		return
	}
	if n.Journal = n.Teacher.Journal; n.Journal == "" || len(l.modules) == 1 {
		return
	}
	path := n.Teacher.Journal
	if !filepath.IsAbs(path) {
		path = filepath.Join(m.dir, path)
	}
	if m.checkout != "" && !Inside(path, m.checkout) {
		l.errorAt(n.Range("journal"), "Invalid value", "journal lies outside of what was fetched with the module; pass the teacher as a variable.")
		return
	}
	if abs, err := filepath.Abs(path); err == nil {
		n.Teacher.Journal = abs
	}
}

// handleAddrs returns the addresses of the blocks that a value refers to.
func handleAddrs(v cty.Value) []string {
	var out []string
	_ = cty.Walk(v, func(_ cty.Path, v cty.Value) (bool, error) {
		if h := asHandle(v); h != nil {
			out = append(out, h.ref.Addr)
		}
		return true, nil
	})
	slices.Sort(out)
	return slices.Compact(out)
}

func sameDir(a, b string) bool { return realPath(a) == realPath(b) }

// Inside reports whether path, links followed, lies in dir or is dir.
func Inside(path, dir string) bool {
	rel, err := filepath.Rel(realPath(dir), realPath(path))
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}

// realPath is path without links and relative parts, as far as it exists.
func realPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return filepath.Clean(path)
	}
	for rest := ""; ; {
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			return filepath.Join(real, rest)
		}
		up := filepath.Dir(abs)
		if up == abs {
			return filepath.Join(abs, rest)
		}
		rest = filepath.Join(filepath.Base(abs), rest)
		abs = up
	}
}
