package lang

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// A readFunc reads a file as readFile does.
type readFunc func(name string) ([]byte, error)

// functions returns what expressions may call: functions of their arguments,
// of files beside the pipeline and of declared environment variables, and
// errors with advice in the place of what would differ from run to run.
func functions(dir directory, env func(string) (string, error)) map[string]function.Function {
	fns := map[string]function.Function{
		"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc, "log": stdlib.LogFunc,
		"max": stdlib.MaxFunc, "min": stdlib.MinFunc, "parseint": stdlib.ParseIntFunc, "pow": stdlib.PowFunc, "signum": stdlib.SignumFunc,

		"chomp": stdlib.ChompFunc, "format": bounded(stdlib.FormatFunc, checkFormat),
		"formatlist": bounded(stdlib.FormatListFunc, checkFormat), "indent": bounded(stdlib.IndentFunc, checkIndent),
		"join": stdlib.JoinFunc, "lower": stdlib.LowerFunc, "regex": stdlib.RegexFunc, "regexall": stdlib.RegexAllFunc,
		"replace": stdlib.ReplaceFunc, "split": stdlib.SplitFunc, "strlen": stdlib.StrlenFunc, "strrev": stdlib.ReverseFunc,
		"substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc, "trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc,
		"trimspace": stdlib.TrimSpaceFunc, "trimsuffix": stdlib.TrimSuffixFunc, "upper": stdlib.UpperFunc,

		"chunklist": stdlib.ChunklistFunc, "coalesce": stdlib.CoalesceFunc, "coalescelist": stdlib.CoalesceListFunc,
		"compact": stdlib.CompactFunc, "concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc, "distinct": stdlib.DistinctFunc,
		"element": stdlib.ElementFunc, "flatten": stdlib.FlattenFunc, "keys": stdlib.KeysFunc, "length": lengthFunction,
		"lookup": stdlib.LookupFunc, "merge": stdlib.MergeFunc, "range": stdlib.RangeFunc, "reverse": stdlib.ReverseListFunc,
		"setintersection": stdlib.SetIntersectionFunc, "setproduct": bounded(stdlib.SetProductFunc, checkProduct), "setsubtract": stdlib.SetSubtractFunc,
		"setunion": stdlib.SetUnionFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc, "values": stdlib.ValuesFunc,
		"zipmap": stdlib.ZipmapFunc,

		"csvdecode": stdlib.CSVDecodeFunc, "jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc,
		"tobool": stdlib.MakeToFunc(cty.Bool), "tonumber": stdlib.MakeToFunc(cty.Number), "tostring": stdlib.MakeToFunc(cty.String),
		"tolist": stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), "tomap": stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)),
		"toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		"can":   tryfunc.CanFunc, "try": tryfunc.TryFunc,

		"env":    envFunction(env),
		"file":   fileFunction(dir),
		"matrix": matrixFunction,
	}
	for name, advice := range impure {
		fns[name] = impureFunction(advice)
	}
	fns["templatefile"] = templateFunction(dir, maps.Clone(fns))
	return fns
}

// lengthFunction counts the elements of a collection, or the characters of a
// string.
var lengthFunction = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		if args[0].Type() == cty.String {
			return stdlib.Strlen(args[0])
		}
		if !args[0].CanIterateElements() {
			return cty.NilVal, function.NewArgErrorf(0, "it counts what is in a list, a map or a string, and this is %s", describe(args[0]))
		}
		return args[0].Length(), nil
	},
})

// impure are functions known from elsewhere that would make every run a new
// one, and what to do instead.
var impure = map[string]string{
	"timestamp": "the time changes with every run, so nothing would ever be found in the cache; each run already records when it ran, and a date that matters can be a variable: --var date=2026-11-24",
	"uuid":      "a random id changes with every run, so nothing would ever be found in the cache; artifacts are already named by their content",
	"bcrypt":    "its salt changes with every run, so nothing would ever be found in the cache; secrets belong into environment variables that the pipeline names",
	"random":    "a random value changes with every run; derive it from the pipeline's seed, which every stage already does",
}

func impureFunction(advice string) function.Function {
	return function.New(&function.Spec{
		VarParam: &function.Parameter{Type: cty.DynamicPseudoType, AllowNull: true, AllowMarked: true},
		Type:     func([]cty.Value) (cty.Type, error) { return cty.NilType, errors.New(advice) },
		Impl:     func([]cty.Value, cty.Type) (cty.Value, error) { return cty.NilVal, errors.New(advice) },
	})
}

// readDeclaredEnv looks up an environment variable that the pipeline block names.
func (l *loader) readDeclaredEnv(name string) (string, error) {
	if !l.envs[name] {
		return "", fmt.Errorf("%q is not declared; write pipeline \"NAME\" { env = [%q] } so that people see what the pipeline depends on", name, name)
	}
	v, ok := l.opts.Env(name)
	if !ok {
		return "", fmt.Errorf("the environment variable %s is not set", name)
	}
	return v, nil
}

var stringParam = []function.Parameter{{Name: "name", Type: cty.String}}

func envFunction(env func(string) (string, error)) function.Function {
	return function.New(&function.Spec{
		Params: stringParam,
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			v, err := env(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.StringVal(v), nil
		},
	})
}

func fileFunction(dir directory) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			_, text, err := dir.readText(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.StringVal(text), nil
		},
	})
}

// A directory is where relative paths start. If it was fetched, checkout is
// what they may not lead out of, else it is empty. read reads a file.
type directory struct {
	path, checkout string
	read           readFunc
}

// readText reads a UTF-8 file.
func (d directory) readText(path string) (name, text string, err error) {
	if path == "" {
		return "", "", errors.New("the path is empty")
	}
	name = path
	if !filepath.IsAbs(name) {
		name = filepath.Join(d.path, name)
	}
	if d.checkout != "" && !Inside(name, d.checkout) {
		return "", "", fmt.Errorf("%s lies outside of what was fetched with the module; pass what it holds as a variable", path)
	}
	b, err := d.read(name)
	if err != nil {
		return "", "", errors.New(ioReason(name, err))
	}
	if !utf8.Valid(b) {
		return "", "", fmt.Errorf("%s is not UTF-8 text", name)
	}
	return name, string(b), nil
}

// templateFunction evaluates the file's content as an HCL template with the
// given variables. fns does not hold templatefile, so that it cannot recurse.
func templateFunction(dir directory, fns map[string]function.Function) function.Function {
	eval := func(args []cty.Value) (cty.Value, error) {
		name, text, err := dir.readText(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		vars := args[1]
		if vars.IsNull() || !vars.Type().IsObjectType() && !vars.Type().IsMapType() {
			return cty.NilVal, function.NewArgErrorf(1, "the variables of a template are an object, such as { name = \"x\" }")
		}
		if d := tooDeep([]byte(text), name); d != nil {
			return cty.NilVal, function.NewArgErrorf(0, "%s: %s", d.Subject, d.Detail)
		}
		expr, diags := hclsyntax.ParseTemplate([]byte(text), name, hcl.InitialPos)
		if diags.HasErrors() {
			return cty.NilVal, function.NewArgErrorf(0, "%s", strings.TrimSuffix(diags[0].Error(), "."))
		}
		known := map[string]cty.Value{} // not nil, which would forbid variables
		maps.Copy(known, vars.AsValueMap())
		v, diags := expr.Value(&hcl.EvalContext{Variables: known, Functions: fns})
		if diags.HasErrors() {
			return cty.NilVal, function.NewArgErrorf(0, "%s", strings.TrimSuffix(diags[0].Error(), "."))
		}
		v, err = convert.Convert(v, cty.String)
		if err != nil {
			return cty.NilVal, function.NewArgErrorf(0, "%s does not make a string: %s", name, err)
		}
		return v, nil
	}
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}, {Name: "vars", Type: cty.DynamicPseudoType}},
		Type:   function.StaticReturnType(cty.String),
		Impl:   func(args []cty.Value, _ cty.Type) (cty.Value, error) { return eval(args) },
	})
}

// maxMatrix bounds the combinations of a matrix.
const maxMatrix = 10_000

// matrixFunction turns matrix({lr = [1e-4, 2e-4], rank = [8, 16]}) into an
// object of all combinations with keys such as "lr=0.0001,rank=8": axes in
// alphabetical order, numbers as HCL writes them.
var matrixFunction = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "axes", Type: cty.DynamicPseudoType}},
	Type: func(args []cty.Value) (cty.Type, error) {
		if !args[0].IsWhollyKnown() {
			return cty.DynamicPseudoType, nil
		}
		v, err := matrix(args[0])
		return v.Type(), err
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return matrix(args[0]) },
})

func matrix(axes cty.Value) (cty.Value, error) {
	bad := func(format string, args ...any) (cty.Value, error) {
		return cty.DynamicVal, function.NewArgErrorf(0, format, args...)
	}
	if t := axes.Type(); !t.IsObjectType() && !t.IsMapType() || axes.LengthInt() == 0 {
		return bad("write the axes as an object of lists, such as matrix({ rank = [8, 16] })")
	}
	type combination struct {
		key    []string
		values map[string]cty.Value
	}
	all := []combination{{}}
	lists := axes.AsValueMap()
	for _, name := range sortedKeys(lists) {
		axis := lists[name]
		if t := axis.Type(); axis.IsNull() || !t.IsTupleType() && !t.IsListType() && !t.IsSetType() || axis.LengthInt() == 0 {
			return bad("axis %s is not a list of values, such as %s = [8, 16]", name, name)
		}
		if len(all)*axis.LengthInt() > maxMatrix {
			return bad("there are more than %d combinations", maxMatrix)
		}
		var next []combination
		for _, c := range all {
			for _, v := range axis.AsValueSlice() {
				s, err := convert.Convert(v, cty.String)
				if err != nil || v.IsNull() || v.Type() == cty.Number && tooBig(v.AsBigFloat()) && v.AsBigFloat().Sign() != 0 {
					return bad("axis %s holds %s; the key of a combination is made of strings, numbers and bools", name, describe(v))
				}
				if strings.ContainsAny(s.AsString(), ",=") {
					return bad("axis %s holds %q; commas and equals signs would make the keys ambiguous", name, s.AsString())
				}
				values := maps.Clone(c.values)
				if values == nil {
					values = map[string]cty.Value{}
				}
				values[name] = v
				next = append(next, combination{append(slices.Clone(c.key), name+"="+s.AsString()), values})
			}
		}
		all = next
	}
	out := map[string]cty.Value{}
	for _, c := range all {
		key := strings.Join(c.key, ",")
		if _, dup := out[key]; dup {
			return bad("the combination %q occurs twice; list each value of an axis once", key)
		}
		out[key] = cty.ObjectVal(c.values)
	}
	return cty.ObjectVal(out), nil
}
