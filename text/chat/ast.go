package chat

// node is a statement or the output of an expression.
type node interface {
	exec(in *interp, s *scope) signal
}

// expr is an expression.
type expr interface {
	eval(in *interp, s *scope) Value
}

// signal says how a statement ended.
type signal uint8

const (
	normal signal = iota
	breakLoop
	continueLoop
)

type (
	textNode   struct{ text string }
	outputNode struct {
		line  int
		value expr
	}
	forNode struct {
		line       int
		target     []string // one name, or several to unpack into
		iter, cond expr     // cond may be nil
		body, none []node   // none: the else part
	}
	ifNode struct {
		line  int
		cond  expr
		body  []node
		other []node
	}
	setNode struct {
		line   int
		target []setTarget
		value  expr
		body   []node // block set, when value is nil
		filter []filterCall
	}
	setTarget struct{ name, attr string }
	macroNode struct {
		line     int
		name     string
		params   []string
		defaults []expr // of the last parameters
		body     []node
	}
	filterNode struct {
		line   int
		filter []filterCall
		body   []node
	}
	withNode struct {
		line   int
		names  []string
		values []expr
		body   []node
	}
	generationNode struct {
		line int
		body []node
	}
	callBlockNode struct {
		line   int
		call   *callExpr
		caller *macroNode
	}
	loopControl struct{ signal signal }
)

type (
	constExpr struct{ value Value }
	nameExpr  struct {
		line int
		name string
	}
	listExpr  struct{ items []expr }
	tupleExpr struct{ items []expr }
	dictExpr  struct {
		line       int
		keys, vals []expr
	}
	attrExpr struct {
		line int
		of   expr
		name string
	}
	indexExpr struct {
		line   int
		of, at expr
	}
	sliceExpr struct {
		line         int
		of           expr
		lo, hi, step expr // each may be nil
	}
	callExpr struct {
		line    int
		callee  expr
		pos     []expr
		kwNames []string
		kw      []expr
	}
	filterCall struct {
		line int
		name string
		args *callExpr // callee is nil
	}
	filterExpr struct {
		of   expr
		call filterCall
	}
	testExpr struct {
		line int
		of   expr
		name string
		args []expr
	}
	unaryExpr struct {
		line int
		op   string
		of   expr
	}
	binaryExpr struct {
		line int
		op   string
		l, r expr
	}
	compareExpr struct {
		line  int
		first expr
		ops   []string
		rest  []expr
	}
	condExpr struct{ yes, cond, no expr } // no may be nil
)
