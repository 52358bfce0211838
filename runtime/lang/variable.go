package lang

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"pipe/runtime/artifact"
)

// envPrefix starts the names of environment variables that set variables.
const envPrefix = "PIPE_VAR_"

// sensitive marks values that must not be stored or shown.
const sensitive = "sensitive"

// A variable is one variable block.
type variable struct {
	decl        *decl
	description string
	typ         cty.Type      // NilType if not declared
	handle      artifact.Type // of the references that typ is made of; empty for plain values
	dflt        cty.Value
	sensitive   bool
	validations []*hclsyntax.Block
}

func (l *loader) declareVariable(m *module, b *hclsyntax.Block) {
	name, ok := l.label(b)
	if !ok {
		return
	}
	d := &decl{mod: m, typ: "var", name: name, block: b}
	d.variable = &variable{decl: d}
	before := len(l.order)
	l.add(d)
	if len(l.order) > before {
		m.vars = append(m.vars, d.variable)
	}
}

// evalVariables gives every variable its value: from --var, else the last
// --var-file that has it, else PIPE_VAR_NAME, else its default.
func (l *loader) evalVariables() {
	vars := l.root.vars
	names := make([]string, len(vars))
	for i, v := range vars {
		names[i] = v.decl.name
	}
	for _, name := range slices.Sorted(maps.Keys(l.opts.Vars)) {
		if !slices.Contains(names, name) {
			l.fail("Unknown variable", "--var %s: the pipeline declares no variable %q.%s", name, name, l.meantVariable(name, names))
		}
	}
	given := l.readVarFiles(names)
	for _, v := range vars {
		l.readVariable(v)
		l.giveValue(v, given)
		l.validate(v)
	}
}

func (l *loader) meantVariable(name string, names []string) string {
	if s := didYouMean(name, names, "%s"); s != "" {
		return s
	}
	if len(names) == 0 {
		return " It declares none."
	}
	return " Declared are " + list(names) + "."
}

// A fileValue is the value that a --var-file gives to a variable.
type fileValue struct {
	value cty.Value
	at    hcl.Range
}

func (l *loader) readVarFiles(names []string) map[string]fileValue {
	given := map[string]fileValue{}
	for _, path := range l.opts.VarFiles {
		src, err := l.read(path)
		if err != nil {
			l.fail("Cannot read the variables", "--var-file %s", ioReason(path, err))
			continue
		}
		path = filepath.Clean(path)
		if l.prog.Files[path] != nil {
			l.fail("Cannot read the variables", "--var-file %s is a file of the pipeline itself; give it another extension, such as .vars", path)
			continue
		}
		l.prog.Files[path] = &hcl.File{Bytes: src}
		l.prog.ValueFiles = append(l.prog.ValueFiles, path)
		if d := tooDeep(src, path); d != nil {
			l.diags = append(l.diags, d)
			continue
		}
		f, diags := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
		l.prog.Files[path] = f
		l.diags = append(l.diags, diags...)
		if diags.HasErrors() {
			continue
		}
		body := f.Body.(*hclsyntax.Body)
		for _, b := range body.Blocks {
			l.errorAt(b.TypeRange, "Unknown block", "A file of variables holds lines of the form NAME = VALUE.")
		}
		for _, a := range attributesOf(body) {
			if !slices.Contains(names, a.Name) {
				l.errorAt(a.NameRange, "Unknown variable", "The pipeline declares no variable %q.%s", a.Name, l.meantVariable(a.Name, names))
				continue
			}
			v, diags := a.Expr.Value(nil)
			l.diags = append(l.diags, diags...)
			if diags.HasErrors() {
				v = cty.DynamicVal
			}
			given[a.Name] = fileValue{v, a.Expr.Range()}
		}
	}
	return given
}

// readVariable decodes a variable block but for its value.
func (l *loader) readVariable(v *variable) {
	known := []string{"type", "default", "description", "sensitive"}
	body := v.decl.block.Body
	for _, a := range attributesOf(body) {
		switch a.Name {
		case "type":
			var t cty.Type
			var diags hcl.Diagnostics
			if t, v.handle = handleConstraint(a.Expr); v.handle == "" {
				t, diags = typeexpr.TypeConstraint(a.Expr)
			}
			l.diags = append(l.diags, diags...)
			if !diags.HasErrors() && t != cty.DynamicPseudoType {
				v.typ = t
			}
		case "default":
			val, diags := a.Expr.Value(&hcl.EvalContext{Functions: v.decl.mod.funcs})
			l.diags = append(l.diags, diags...)
			v.dflt = val
			if diags.HasErrors() {
				v.dflt = cty.DynamicVal
			}
		case "description":
			v.description, _ = l.constant(a, cty.String).(string)
		case "sensitive":
			v.sensitive, _ = l.constant(a, cty.Bool).(bool)
			l.prog.Sensitive = l.prog.Sensitive || v.sensitive
		default:
			l.errorAt(a.NameRange, "Unknown attribute", "A variable block has no attribute %q.%s It has %s.",
				a.Name, didYouMean(a.Name, known, "%s"), list(known))
		}
	}
	for _, b := range body.Blocks {
		if b.Type != "validation" || len(b.Labels) > 0 {
			l.errorAt(b.TypeRange, "Unknown block", "A variable block holds validation { condition = ... error_message = ... } blocks only.")
			continue
		}
		v.validations = append(v.validations, b)
	}
}

// constant evaluates an attribute that may refer to nothing.
func (l *loader) constant(a *hclsyntax.Attribute, t cty.Type) any {
	val, diags := a.Expr.Value(nil)
	if !diags.HasErrors() {
		val, err := convert.Convert(val, t)
		if err == nil && !val.IsNull() {
			if t == cty.Bool {
				return val.True()
			}
			return val.AsString()
		}
	}
	l.errorAt(a.Expr.Range(), "Wrong type", "%s takes a constant %s.", a.Name, t.FriendlyName())
	return nil
}

func (l *loader) giveValue(v *variable, given map[string]fileValue) {
	d := v.decl
	d.broken = true
	var val cty.Value
	text, ok := l.opts.Vars[d.name]
	origin := "--var " + d.name
	if !ok {
		if fv, fromFile := given[d.name]; fromFile {
			val = l.convertVariable(v, fv.value, fv.at, "")
		} else if text, ok = l.opts.Env(envPrefix + d.name); ok {
			origin = "the environment variable " + envPrefix + d.name
		}
	}
	switch {
	case ok:
		val = l.parseVariable(v, text, origin)
	case val != cty.NilVal:
	case v.dflt != cty.NilVal:
		at := d.header()
		if a := d.block.Body.Attributes["default"]; a != nil {
			at = a.Expr.Range()
		}
		val = l.convertVariable(v, v.dflt, at, "")
	case v.handle != "":
		l.errorAt(d.header(), "Missing value", "Variable %q takes %s, which only a module block can give: write module \"NAME\" { source = ... %s = ... } in another pipeline.", d.name, v.takes(), d.name)
	default:
		l.errorAt(d.header(), "Missing value", "Variable %q has no default; give --var %s=VALUE, set %s%s, or write default = ... here.", d.name, d.name, envPrefix, d.name)
	}
	l.setValue(v, val)
	if _, fromFile := given[d.name]; ok || fromFile {
		l.noteGiven(v)
	}
}

// noteGiven notes the value that a variable got from outside.
func (l *loader) noteGiven(v *variable) {
	d := v.decl
	switch {
	case d.broken:
	case v.sensitive:
		l.prog.Withheld = append(l.prog.Withheld, d.name)
	default:
		l.prog.Given[d.name] = string(hclwrite.TokensForValue(d.value).Bytes())
	}
}

// setValue gives a variable its value; without one it stays broken.
func (l *loader) setValue(v *variable, val cty.Value) {
	if val == cty.NilVal || !val.IsWhollyKnown() {
		return
	}
	if v.sensitive {
		val = val.Mark(sensitive)
	}
	v.decl.value, v.decl.broken = val, false
}

// convertTo is convert.Convert without its reasons.
func convertTo(val cty.Value, t cty.Type) (cty.Value, bool) {
	out, err := convert.Convert(val, t)
	return out, err == nil
}

func (l *loader) convertVariable(v *variable, val cty.Value, at hcl.Range, origin string) cty.Value {
	if v.typ == cty.NilType || !val.IsWhollyKnown() {
		return val
	}
	out, err := convert.Convert(val, v.typ)
	if err != nil {
		l.errorAt(at, "Wrong type", "Variable %q takes a %s%s: %s.", v.decl.name, v.typ.FriendlyNameForConstraint(), origin, err)
		return cty.NilVal
	}
	return out
}

// parseVariable reads a value given as text: as it is for strings and where
// nothing is known about the type, else as an HCL expression.
func (l *loader) parseVariable(v *variable, text, origin string) cty.Value {
	t := v.typ
	if t == cty.NilType && v.dflt != cty.NilVal && !v.dflt.IsNull() {
		t = v.dflt.Type()
	}
	at, from := v.decl.header(), " (given by "+origin+")"
	if t == cty.NilType || t.IsPrimitiveType() {
		val := cty.StringVal(text)
		if t == cty.NilType || t == cty.String {
			return val
		}
		out, err := convert.Convert(val, t)
		if err != nil {
			l.errorAt(at, "Wrong type", "Variable %q takes a %s%s: %s.", v.decl.name, t.FriendlyName(), from, err)
			return cty.NilVal
		}
		return out
	}
	if d := tooDeep([]byte(text), origin); d != nil {
		l.errorAt(at, "Invalid value", "Variable %q%s: %s", v.decl.name, from, d.Detail)
		return cty.NilVal
	}
	expr, diags := hclsyntax.ParseExpression([]byte(text), origin, hcl.InitialPos)
	val := cty.NilVal
	if !diags.HasErrors() {
		var more hcl.Diagnostics
		val, more = expr.Value(nil)
		diags = append(diags, more...)
	}
	if diags.HasErrors() {
		l.errorAt(at, "Invalid value", "Variable %q takes an expression, such as [1, 2]%s: %s %s", v.decl.name, from, diags[0].Summary, diags[0].Detail)
		return cty.NilVal
	}
	return l.convertVariable(v, val, at, from)
}

// validate judges the validation blocks of a variable that has a value.
func (l *loader) validate(v *variable) {
	for _, b := range v.validations {
		cond, msg := b.Body.Attributes["condition"], b.Body.Attributes["error_message"]
		for _, a := range attributesOf(b.Body) {
			if a != cond && a != msg {
				l.errorAt(a.NameRange, "Unknown attribute", "A validation block has condition and error_message, not %q.", a.Name)
			}
		}
		for _, inner := range b.Body.Blocks {
			l.errorAt(inner.TypeRange, "Unknown block", "A validation block has condition and error_message only.")
		}
		if cond == nil || msg == nil {
			l.errorAt(b.TypeRange, "Missing attribute", "Write validation { condition = var.%s != \"\"  error_message = \"...\" }.", v.decl.name)
			continue
		}
		foreign := false
		for _, t := range append(cond.Expr.Variables(), msg.Expr.Variables()...) {
			if t.RootName() != "var" || len(t) < 2 || stepName(t[1]) != v.decl.name {
				l.errorAt(t.SourceRange(), "Invalid reference", "A validation may refer to var.%s only.", v.decl.name)
				foreign = true
			}
		}
		if foreign || v.decl.broken {
			continue
		}
		ctx := &hcl.EvalContext{Functions: v.decl.mod.funcs, Variables: map[string]cty.Value{
			"var": cty.ObjectVal(map[string]cty.Value{v.decl.name: v.decl.value})}}
		ok, diags := evalBool(cond.Expr, ctx)
		l.diags = append(l.diags, diags...)
		if diags.HasErrors() || ok {
			continue
		}
		l.errorAt(l.valueRange(v), "Invalid value for variable", "var.%s: %s", v.decl.name, evalMessage(msg.Expr, ctx))
	}
}

// valueRange is where a rejected value comes from, as far as it is in the file.
func (l *loader) valueRange(v *variable) hcl.Range {
	if a := v.decl.argument(); a != nil {
		return a.Expr.Range()
	}
	_, given := l.opts.Vars[v.decl.name]
	if a := v.decl.block.Body.Attributes["default"]; a != nil && !given {
		return a.Expr.Range()
	}
	return v.decl.header()
}

// evalBool evaluates a condition.
func evalBool(e hcl.Expression, ctx *hcl.EvalContext) (bool, hcl.Diagnostics) {
	v, diags := e.Value(ctx)
	if diags.HasErrors() {
		return false, diags
	}
	v, _ = v.Unmark()
	b, err := convert.Convert(v, cty.Bool)
	if err != nil || b.IsNull() || !b.IsKnown() {
		return false, append(diags, errorAt(e.Range(), "Wrong type", "A condition is true or false, and this is %s.", describe(v)))
	}
	return b.True(), diags
}

// evalMessage evaluates an error message; a message that cannot be made is
// said instead of it.
func evalMessage(e hcl.Expression, ctx *hcl.EvalContext) string {
	v, diags := e.Value(ctx)
	if diags.HasErrors() {
		return fmt.Sprintf("(the error_message failed: %s)", diags[0].Detail)
	}
	v, marks := v.Unmark()
	if len(marks) > 0 {
		return "(the error_message refers to a sensitive value)"
	}
	if s, err := convert.Convert(v, cty.String); err == nil && !s.IsNull() && s.IsKnown() {
		return s.AsString()
	}
	return "(the error_message is not a string)"
}
