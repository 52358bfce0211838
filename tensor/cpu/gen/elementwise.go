package main

import (
	"fmt"
	"math"
)

// masks defines eight set lanes followed by eight clear ones: from lane 8-n
// on, it selects n elements.
func (w *writer) masks() {
	s := ""
	for i := range 8 {
		v := uint64(math.MaxUint64)
		if i >= 4 {
			v = 0
		}
		s += fmt.Sprintf("DATA mask<>+%d(SB)/8, $0x%016x\n", 8*i, v)
	}
	w.table(s + "GLOBL mask<>(SB), RODATA|NOPTR, $64\n")
}

// A mapping is a kernel over slices, eight elements at a time, the last ones
// under a mask. body works on in[i] in Y0.., scalar i in Y(14-i) and leaves
// out[i] in Y(outs[i]).
type mapping struct {
	name, doc string
	in, out   []string
	outs      []int
	scalars   []string
	before    func()
	body      func(tail bool)
	after     func(arg func(string) string)
	sum       string // name of a further *float32 parameter for after
}

func (w *writer) mapping(m mapping) {
	params := []param{{"n", "int"}}
	regs := []string{"SI", "DX", "BX", "R10", "R11", "DI", "R12", "R13"}
	at := map[string]string{}
	for _, name := range append(append([]string{}, m.out...), m.in...) {
		if at[name] == "" {
			at[name] = regs[len(at)]
			params = append(params, param{name, "*float32"})
		}
	}
	if m.sum != "" {
		params = append(params, param{m.sum, "*float32"})
	}
	for _, s := range m.scalars {
		params = append(params, param{s, "float32"})
	}
	arg := w.function(m.name, m.doc, params...)
	w.p("MOVQ %s, CX\nXORQ R9, R9", arg("n"))
	for name, reg := range sorted(at) {
		w.p("MOVQ %s, %s", arg(name), reg)
	}
	for i, s := range m.scalars {
		w.p("VBROADCASTSS %s, Y%d", arg(s), 14-i)
	}
	if m.before != nil {
		m.before()
	}
	loop, tail, done := w.label(), w.label(), w.label()
	w.p("SUBQ $8, CX\nJLT %s\n%s:", tail, loop)
	for i, name := range m.in {
		w.p("VMOVUPS (%s)(R9*1), Y%d", at[name], i)
	}
	m.body(false)
	for i, name := range m.out {
		w.p("VMOVUPS Y%d, (%s)(R9*1)", m.outs[i], at[name])
	}
	w.p("ADDQ $32, R9\nSUBQ $8, CX\nJGE %s\n%s:\nADDQ $8, CX\nJEQ %s", loop, tail, done)
	w.p("LEAQ mask<>+32(SB), R8\nSHLQ $2, CX\nSUBQ CX, R8\nVMOVUPS (R8), Y15")
	for i, name := range m.in {
		w.p("VMASKMOVPS (%s)(R9*1), Y15, Y%d", at[name], i)
	}
	m.body(true)
	for i, name := range m.out {
		w.p("VMASKMOVPS Y%d, Y15, (%s)(R9*1)", m.outs[i], at[name])
	}
	w.p("%s:", done)
	if m.after != nil {
		m.after(arg)
	}
	w.ret()
}

// exp writes x = e^x for registers x, with temporaries a, b and c; Y13 holds
// the least and Y12 the greatest argument that matters. A NaN stays, because
// comparisons with it yield the second source.
func (w *writer) exp(x, a, b, c int) {
	k := func(name string, v float32) string { return w.vector("exp"+name, math.Float32bits(v)) }
	w.p("VMINPS Y%d, Y12, Y%d\nVMAXPS Y%d, Y13, Y%d", x, x, x, x)
	w.p("VMULPS %s, Y%d, Y%d\nVROUNDPS $0, Y%d, Y%d", k("Log2E", 1.44269504088896341), x, a, a, a)
	w.p("VFNMADD231PS %s, Y%d, Y%d\nVFNMADD231PS %s, Y%d, Y%d", k("Ln2Hi", 0.693359375), a, x, k("Ln2Lo", -2.12194440e-4), a, x)
	w.p("VMOVUPS %s, Y%d", k("P0", 1.9875691500e-4), b)
	for i, v := range []float32{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		w.p("VFMADD213PS %s, Y%d, Y%d", k(fmt.Sprintf("P%d", i+1), v), x, b)
	}
	w.p("VMULPS Y%d, Y%d, Y%d\nVFMADD213PS Y%d, Y%d, Y%d", x, x, c, x, c, b) // b·x² + x
	w.p("VADDPS %s, Y%d, Y%d", k("One", 1), b, x)
	// Times 2^(n/2) twice: the result may be denormal or infinite.
	w.p("VCVTPS2DQ Y%d, Y%d\nVPSRAD $1, Y%d, Y%d\nVPSUBD Y%d, Y%d, Y%d", a, a, a, b, b, a, a)
	one := k("One", 1)
	w.p("VPSLLD $23, Y%d, Y%d\nVPADDD %s, Y%d, Y%d\nVMULPS Y%d, Y%d, Y%d", b, b, one, b, b, b, x, x)
	w.p("VPSLLD $23, Y%d, Y%d\nVPADDD %s, Y%d, Y%d\nVMULPS Y%d, Y%d, Y%d", a, a, one, a, a, a, x, x)
}

func (w *writer) expLimits() {
	w.p("VMOVUPS %s, Y13\nVMOVUPS %s, Y12", w.vector("expMin", math.Float32bits(-105)), w.vector("expMax", math.Float32bits(89)))
}

// sigmoid writes s = 1/(1+e^-g); s, a, b and c are overwritten.
func (w *writer) sigmoid(s, g, a, b, c int) {
	w.p("VXORPS %s, Y%d, Y%d", w.vector("signBit", 1<<31), g, s)
	w.exp(s, a, b, c)
	one := w.vector("expOne", math.Float32bits(1))
	w.p("VMOVUPS %s, Y%d\nVADDPS Y%d, Y%d, Y%d\nVDIVPS Y%d, Y%d, Y%d", one, a, a, s, s, s, a, s)
}

func (w *writer) elementwise() {
	dst := []string{"dst"}
	w.mapping(mapping{name: "addScaled8", doc: "is kernels.addScaled.", in: []string{"a", "b"}, out: dst, outs: []int{0},
		scalars: []string{"s"}, body: func(bool) { w.p("VFMADD231PS Y1, Y14, Y0") }})
	w.mapping(mapping{name: "scale8", doc: "is kernels.scale.", in: []string{"x"}, out: dst, outs: []int{0},
		scalars: []string{"s"}, body: func(bool) { w.p("VMULPS Y0, Y14, Y0") }})
	w.mapping(mapping{name: "mul8", doc: "is kernels.mul.", in: []string{"x", "y"}, out: dst, outs: []int{0},
		scalars: []string{"s"}, body: func(bool) { w.p("VMULPS Y0, Y14, Y0\nVMULPS Y1, Y0, Y0") }})
	w.mapping(mapping{name: "addMul8", doc: "is kernels.addMul.", in: []string{"x", "y", "dst"}, out: dst, outs: []int{2},
		scalars: []string{"s"}, body: func(bool) { w.p("VMULPS Y0, Y14, Y0\nVFMADD231PS Y1, Y0, Y2") }})
	w.mapping(mapping{name: "scaleDot8", doc: "is kernels.scaleDot.", in: []string{"x", "y", "s", "sum"}, out: []string{"dst", "sum"}, outs: []int{4, 3},
		body: func(bool) { w.p("VMULPS Y0, Y2, Y4\nVFMADD231PS Y0, Y1, Y3") }})
	// Products are rounded before they are added, as in Go: sines and cosines
	// are as exact as the sums.
	w.mapping(mapping{name: "rotate8", doc: "is kernels.rotate.", in: []string{"x", "y", "cos", "sin"}, out: []string{"x", "y"}, outs: []int{4, 6},
		scalars: []string{"sign"}, body: func(bool) {
			w.p("VMULPS Y3, Y14, Y3\nVMULPS Y0, Y2, Y4\nVMULPS Y1, Y3, Y5\nVSUBPS Y5, Y4, Y4")
			w.p("VMULPS Y1, Y2, Y6\nVMULPS Y0, Y3, Y7\nVADDPS Y7, Y6, Y6")
		}})
	w.mapping(mapping{name: "exp8", doc: "is kernels.exp, with eight partial sums in sum.", in: []string{"x"}, out: dst, outs: []int{0},
		scalars: []string{"by"}, sum: "sum",
		before: func() { w.expLimits(); w.p("VXORPS Y11, Y11, Y11") },
		body: func(tail bool) {
			w.p("VSUBPS Y14, Y0, Y0")
			w.exp(0, 1, 2, 3)
			if tail {
				w.p("VANDPS Y15, Y0, Y0")
			}
			w.p("VADDPS Y0, Y11, Y11")
		},
		after: func(arg func(string) string) { w.p("MOVQ %s, DI\nVMOVUPS Y11, (DI)", arg("sum")) }})
	w.mapping(mapping{name: "swiglu8", doc: "is kernels.swiglu.", in: []string{"gate", "up"}, out: dst, outs: []int{2}, before: w.expLimits,
		body: func(bool) { w.sigmoid(2, 0, 3, 4, 5); w.p("VMULPS Y2, Y0, Y2\nVMULPS Y1, Y2, Y2") }})
	w.mapping(mapping{name: "swigluGrad8", doc: "is kernels.swigluGrad.", in: []string{"gate", "up", "dy"}, out: []string{"dg", "du"}, outs: []int{5, 4},
		before: w.expLimits,
		body: func(bool) {
			w.sigmoid(3, 0, 4, 5, 6)
			w.p("VMULPS Y3, Y0, Y4\nVMULPS Y2, Y4, Y4")                                                      // du = dy·(g·s)
			w.p("VMOVUPS %s, Y6\nVSUBPS Y3, Y6, Y7\nVFMADD213PS Y6, Y0, Y7", w.vector("expOne", 0x3f800000)) // 1 + g·(1-s)
			w.p("VMULPS Y1, Y2, Y5\nVMULPS Y3, Y5, Y5\nVMULPS Y7, Y5, Y5")
		}})
	w.mapping(mapping{name: "scoreGrad8", doc: "is kernels.scoreGrad.", in: []string{"dp", "p"}, out: []string{"dp"}, outs: []int{0},
		scalars: []string{"delta", "s"},
		body:    func(bool) { w.p("VSUBPS Y14, Y0, Y0\nVMULPS Y0, Y1, Y0\nVMULPS Y13, Y0, Y0") }})
	w.mapping(mapping{name: "adamw8", doc: "is kernels.adamw.", in: []string{"grad", "m", "v", "w"}, out: []string{"w", "m", "v"}, outs: []int{3, 1, 2},
		scalars: []string{"gradScale", "decay", "beta1c", "beta2", "beta2c", "step", "root", "eps"},
		body: func(bool) {
			w.p("VMULPS Y0, Y14, Y0")
			w.p("VSUBPS Y1, Y0, Y4\nVFMADD231PS Y4, Y12, Y1")                     // m += (g-m)(1-β1)
			w.p("VMULPS Y0, Y10, Y4\nVMULPS Y0, Y4, Y4\nVFMADD213PS Y4, Y11, Y2") // v = β2·v + (1-β2)g²
			w.p("VSQRTPS Y2, Y4\nVMULPS Y8, Y4, Y4\nVADDPS Y7, Y4, Y4")
			w.p("VDIVPS Y4, Y1, Y4\nVMULPS Y13, Y3, Y3\nVFNMADD231PS Y4, Y9, Y3") // w = w·decay - step·m/d
		}})
}
