package lang

import (
	"bytes"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	maxDepth  = 1000 // nested brackets, operators, indexes and template directives in one expression
	maxDigits = 300  // of a number, and the size of its exponent
)

// tooDeep refuses what the recursive parser and evaluator behind this package
// could not take: expressions nested without bound, which would exhaust the
// stack, and numbers whose digits would exhaust the memory.
func tooDeep(src []byte, name string) *hcl.Diagnostic {
	tokens, _ := hclsyntax.LexConfig(src, name, hcl.InitialPos)
	n := nesting{frames: []frame{{brace: true}}}
	for _, t := range tokens {
		if t.Type == hclsyntax.TokenNumberLit && hugeNumber(t.Bytes) {
			return errorAt(t.Range, "Number out of range", "A number has at most %d digits, and an exponent of at most %d.", maxDigits, maxDigits)
		}
		if n.token(t.Type); n.depth > maxDepth {
			return errorAt(t.Range, "Expression nested too deeply", "One expression holds at most %d nested brackets and operators; split it with locals.", maxDepth)
		}
	}
	return nil
}

// nesting estimates, from tokens alone and never too low, how deep the syntax
// tree is.
type nesting struct {
	frames []frame // open brackets, quotes and template sequences
	depth  int     // the sum of all counts
}

type frame struct {
	count int  // operators and closed brackets since the last separator
	brace bool // a newline is a separator here
}

func (n *nesting) token(t hclsyntax.TokenType) {
	switch t {
	case hclsyntax.TokenOBrace:
		n.open(true)
	case hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
		hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
		n.open(false)
	case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
		hclsyntax.TokenTemplateSeqEnd:
		if len(n.frames) > 1 {
			n.separate()
			n.frames = n.frames[:len(n.frames)-1]
		}
	case hclsyntax.TokenComma:
		n.separate()
	case hclsyntax.TokenNewline:
		if n.frames[len(n.frames)-1].brace {
			n.separate()
		}
	case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
		hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenGreaterThan,
		hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThanEq, hclsyntax.TokenAnd, hclsyntax.TokenOr,
		hclsyntax.TokenBang, hclsyntax.TokenQuestion, hclsyntax.TokenColon:
		n.count()
	}
}

func (n *nesting) count() {
	n.frames[len(n.frames)-1].count++
	n.depth++
}

func (n *nesting) open(brace bool) {
	n.count()
	n.frames = append(n.frames, frame{brace: brace})
}

func (n *nesting) separate() {
	f := &n.frames[len(n.frames)-1]
	n.depth -= f.count
	f.count = 0
}

func hugeNumber(lit []byte) bool {
	mantissa, exponent := lit, []byte(nil)
	if i := bytes.IndexAny(lit, "eE"); i >= 0 {
		mantissa, exponent = lit[:i], lit[i+1:]
	}
	if len(mantissa) > maxDigits {
		return true
	}
	if len(exponent) == 0 {
		return false
	}
	e, err := strconv.Atoi(string(exponent))
	return err != nil || e > maxDigits || e < -maxDigits
}
