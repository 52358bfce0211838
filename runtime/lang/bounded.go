package lang

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// bounded is fn behind a check of its arguments: some functions make a result
// whose size is a number in the file, which should not decide how much memory
// a pipeline takes to read. check is called with known, unmarked arguments.
func bounded(fn function.Function, check func(args []cty.Value) error) function.Function {
	judge := func(args []cty.Value) error {
		plain := make([]cty.Value, len(args))
		for i, a := range args {
			plain[i], _ = a.UnmarkDeep()
			if !plain[i].IsWhollyKnown() || plain[i].IsNull() {
				return nil // fn says what is wrong with it
			}
		}
		return check(plain)
	}
	return function.New(&function.Spec{
		VarParam: &function.Parameter{Name: "args", Type: cty.DynamicPseudoType, AllowNull: true, AllowUnknown: true, AllowDynamicType: true, AllowMarked: true},
		Type: func(args []cty.Value) (cty.Type, error) {
			if err := judge(args); err != nil {
				return cty.NilType, err
			}
			return fn.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return fn.Call(args) },
	})
}

// checkProduct bounds what setproduct makes.
func checkProduct(args []cty.Value) error {
	n := 1
	for _, a := range args {
		if !a.CanIterateElements() {
			return nil
		}
		if n *= a.LengthInt(); n > maxMatrix {
			return fmt.Errorf("there are more than %d combinations", maxMatrix)
		}
	}
	return nil
}

var wideVerb = regexp.MustCompile(`%[^a-zA-Z%]*[0-9]{4}`)

// checkFormat bounds widths and precisions.
func checkFormat(args []cty.Value) error {
	if len(args) > 0 && args[0].Type() == cty.String && wideVerb.MatchString(strings.ReplaceAll(args[0].AsString(), "%%", " ")) {
		return errors.New("widths and precisions have at most three digits")
	}
	return nil
}

// checkIndent bounds the spaces before a line.
func checkIndent(args []cty.Value) error {
	if len(args) > 0 && args[0].Type() == cty.Number && args[0].GreaterThan(cty.NumberIntVal(999)).True() {
		return errors.New("an indent is at most 999 spaces")
	}
	return nil
}
