package lang

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// declare notes what the blocks of one file of m declare.
func (l *loader) declare(m *module, body *hclsyntax.Body) {
	for _, a := range attributesOf(body) {
		l.errorAt(a.NameRange, "Attribute outside of a block",
			"%s stands alone; attributes belong into a block, and values of your own into locals { ... }.", a.Name)
	}
	for _, b := range body.Blocks {
		switch b.Type {
		case "pipeline":
			l.declareHeader(m, b)
		case "locals":
			l.declareLocals(m, b)
		case "variable":
			l.declareVariable(m, b)
		case "module":
			l.declareCall(m, b)
		case "output":
			l.declareOutput(m, b)
		default:
			l.declareBlock(m, b)
		}
	}
}

func (l *loader) declareHeader(m *module, b *hclsyntax.Block) {
	if m != l.root {
		l.errorAt(headerRange(b), "Invalid block", "A module has no pipeline block: seed and name are those of the pipeline that uses it. Remove the block.")
		return
	}
	name, ok := l.label(b)
	if l.header != nil {
		l.errorAt(headerRange(b), "Duplicate block", "The pipeline block was already written at %s; there is one for all files.", headerRange(l.header))
		return
	}
	l.header = b
	if ok {
		l.prog.Name = name
	}
}

func (l *loader) declareLocals(m *module, b *hclsyntax.Block) {
	if len(b.Labels) > 0 {
		l.errorAt(b.LabelRanges[0], "Unexpected label", "A locals block has no label; write locals { ... }.")
	}
	for _, inner := range b.Body.Blocks {
		l.errorAt(inner.TypeRange, "Unknown block", "A locals block holds attributes only; write %s = { ... } for an object.", inner.Type)
	}
	for _, a := range attributesOf(b.Body) {
		l.add(&decl{mod: m, typ: "local", name: a.Name, attr: a})
	}
}

func (l *loader) declareBlock(m *module, b *hclsyntax.Block) {
	d := &decl{mod: m, typ: b.Type, block: b}
	switch kind := l.kinds[b.Type]; {
	case kind != nil:
		d.kind, d.outputs = kind, kind.Outputs
	case b.Type == "model":
		d.outputs = []stage.Output{{Type: artifact.Model}}
	case b.Type == "teacher":
		d.outputs = []stage.Output{{Type: artifact.Teacher}}
	default:
		known := l.blockTypes()
		detail := didYouMean(b.Type, known, "%s")
		if detail == "" {
			detail = " Known are " + list(known) + "."
		}
		if b.Type == "lock" {
			detail = " What a pipeline takes from outside is pinned in the file pipe.lock, which pipe lock writes."
		}
		l.errorAt(b.TypeRange, "Unknown kind of block", "There is no kind of block named %s.%s", b.Type, detail)
		// References by the right name are not errors of their own.
		d.broken = true
		if d.typ = closest(b.Type, known); d.typ == "" || len(b.Labels) != 1 || l.decls[m.prefix+d.typ+"."+b.Labels[0]] != nil {
			return
		}
	}
	name, ok := l.label(b)
	if !ok {
		return
	}
	d.name = name
	l.add(d)
}

// blockTypes returns the types of all blocks, sorted.
func (l *loader) blockTypes() []string {
	names := append(slices.Collect(maps.Keys(l.kinds)), "pipeline", "variable", "locals", "model", "teacher", "module", "output")
	slices.Sort(names)
	return names
}

// label returns the one label that b must have.
func (l *loader) label(b *hclsyntax.Block) (string, bool) {
	switch {
	case len(b.Labels) == 0:
		l.errorAt(b.TypeRange, "Missing label", "Write %s \"NAME\" { ... }.", b.Type)
		return "", false
	case len(b.Labels) > 1:
		l.errorAt(b.LabelRanges[1], "Unexpected label", "A %s block has one label, its name; write %s %q { ... }.", b.Type, b.Type, b.Labels[0])
		return "", false
	case !hclsyntax.ValidIdentifier(b.Labels[0]):
		l.errorAt(b.LabelRanges[0], "Invalid name",
			"%q cannot be referred to; a name starts with a letter and holds letters, digits, _ and -.", b.Labels[0])
		return "", false
	}
	return b.Labels[0], true
}

func (l *loader) add(d *decl) {
	d.addr = d.mod.prefix + d.typ + "." + d.name
	if old := l.decls[d.addr]; old != nil {
		l.errorAt(d.header(), "Duplicate name", "%s was already declared at %s.", d.addr, old.header())
		return
	}
	d.index = len(l.order)
	d.value = cty.DynamicVal
	l.decls[d.addr] = d
	l.order = append(l.order, d)
}

// readEnv reads the names in the env attribute of the pipeline block: they
// must be known before any function can be called.
func (l *loader) readEnv() {
	if l.header == nil {
		return
	}
	a := l.header.Body.Attributes["env"]
	if a == nil {
		return
	}
	exprs, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		l.errorAt(a.Expr.Range(), "Wrong type", "env takes a list of names, such as [\"HF_HOME\"].")
		return
	}
	for _, e := range exprs {
		v, diags := e.Value(nil)
		if diags.HasErrors() || v.IsNull() || v.Type() != cty.String {
			l.errorAt(e.Range(), "Wrong type", "env takes the names of environment variables as plain strings, such as \"HF_HOME\".")
			continue
		}
		l.envs[v.AsString()] = true
	}
}

// A pipelineBlock is the pipeline block but for env.
type pipelineBlock struct {
	Seed        uint64 `hcl:"seed,optional" doc:"Seed that the seeds of all stages derive from"`
	Description string `hcl:"description,optional" doc:"What the pipeline is for"`
	BudgetTime  string `hcl:"budget_time,optional" doc:"Longest time of one run, such as 8h: then it saves checkpoints and exits with code 4, and the next run goes on; run --max-time wins over it"`
}

// evalHeader decodes the pipeline block, whose values may refer to variables.
func (l *loader) evalHeader() {
	if l.header == nil {
		return
	}
	d := &decl{mod: l.root, typ: "pipeline", addr: "pipeline", block: l.header, uses: map[string]hcl.Range{}}
	body := *l.header.Body
	body.Attributes = maps.Clone(body.Attributes)
	for _, a := range attributesOf(l.header.Body) {
		for _, t := range a.Expr.Variables() {
			switch {
			case a.Name == "env": // reported with the names
			case t.RootName() != "var":
				l.errorAt(t.SourceRange(), "Invalid reference", "The pipeline block may refer to variables only.")
				delete(body.Attributes, a.Name) // its value would be a second error
			default:
				l.use(d, []hcl.Traversal{t}, false, false)
			}
		}
	}
	var p pipelineBlock
	n := &Node{ranges: map[string]hcl.Range{}, Header: headerRange(l.header)}
	dec := decoder{l: l, scope: l.scope(d), node: n, what: "pipeline"}
	dec.body(&body, &p, []string{"env"})
	l.prog.Seed, l.prog.Description = p.Seed, p.Description
	if p.BudgetTime != "" {
		t, err := time.ParseDuration(p.BudgetTime)
		if err != nil || t <= 0 {
			l.errorAt(n.Range("budget_time"), "Invalid value", "budget_time is %q; must be a duration above 0, such as \"8h\" or \"90m\".", p.BudgetTime)
		}
		l.prog.BudgetTime = t
	}
}
