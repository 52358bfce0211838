package main

import "fmt"

// Queries of one call of the kernels of attention, and the keys that are
// multiplied side by side.
const (
	attendMost = 4
	attendKeys = 4
)

// attention writes the kernels of few queries, which share keys and values:
// scores, of keys in bfloat16, and the weighted sums of values of both types.
func (w *writer) attention() {
	for rows := 1; rows <= attendMost; rows++ {
		w.scores(rows)
	}
	for _, half := range []bool{true, false} {
		for rows := 1; rows <= attendMost; rows++ {
			w.mix(rows, 4, half)
			w.mix(rows, 1, half)
		}
	}
}

// sixteen loads 16 elements, group groups behind at, as float32.
func (w *writer) sixteen(at string, group, z int, half bool) {
	if half {
		w.p("VPMOVZXWD %d%s, Z%d\nVPSLLD $16, Z%d, Z%d", 32*group, at, z, z, z)
	} else {
		w.p("VMOVUPS %d%s, Z%d", 64*group, at, z)
	}
}

// scores writes the products of some queries with four keys at a time. A
// product is one chain of sums in 16 lanes, whatever stands beside it. Z0 to Z3
// hold keys, Z4 to Z7 queries, and Z8 and up the sums, four a query.
func (w *writer) scores(rows int) {
	arg := w.function(fmt.Sprintf("scores%d", rows),
		fmt.Sprintf("is kernels.scores for %d rows; n is in groups of 4 and d in groups of 16.", rows),
		param{"n", "int"}, param{"d", "int"}, param{"q", "*float32"}, param{"qr", "int"}, param{"k", "*byte"}, param{"kr", "int"},
		param{"p", "*float32"}, param{"pr", "int"}, param{"scale", "float32"})
	for _, v := range [][2]string{{"n", "CX"}, {"d", "DX"}, {"q", "SI"}, {"qr", "R8"}, {"k", "BX"}, {"kr", "R9"}, {"p", "DI"}, {"pr", "R10"}} {
		w.p("MOVQ %s, %s", arg(v[0]), v[1])
	}
	queries := []string{"SI", "R12", "R15", "R8"}[:rows]
	w.p("SHLQ $6, DX\nLEAQ (R9)(R9*2), R11\nLEAQ (SI)(R8*1), R12\nLEAQ (SI)(R8*2), R15\nLEAQ (R15)(R8*1), R8")
	w.p("VBROADCASTSS %s, Z31", arg("scale"))
	group, terms := w.label(), w.label()
	w.p("%s:", group)
	for i := range attendKeys * rows {
		w.p("VXORPS Z%d, Z%d, Z%d", 8+i, 8+i, 8+i)
	}
	w.p("XORQ R13, R13\nLEAQ (BX)(R9*8), AX\nPCALIGN $32\n%s:", terms)
	for i, at := range []string{"(%s)", "(%s)(R9*1)", "(%s)(R9*2)", "(%s)(R11*1)"} {
		w.sixteen(fmt.Sprintf(at, "BX"), 0, i, true)
		w.p("PREFETCHT0 "+at, "AX")
	}
	for j, q := range queries {
		w.p("VMOVUPS (%s)(R13*1), Z%d", q, 4+j)
		for i := range attendKeys {
			w.p("VFMADD231PS Z%d, Z%d, Z%d", i, 4+j, 8+attendKeys*j+i)
		}
	}
	w.p("ADDQ $32, BX\nADDQ $32, AX\nADDQ $64, R13\nCMPQ R13, DX\nJLT %s", terms)
	w.p("LEAQ (DI)(R10*2), AX")
	for j, at := range []string{"(DI)", "(DI)(R10*1)", "(AX)", "(AX)(R10*1)"}[:rows] {
		w.fourSums(8+attendKeys*j, at)
	}
	// Back to the beginning of the row, and four rows on.
	w.p("SHRQ $1, R13\nSUBQ R13, BX\nLEAQ (BX)(R9*4), BX\nADDQ $16, DI\nDECQ CX\nJNZ %s", group)
	w.ret()
}

// fourSums adds up the lanes of Z(a) to Z(a+3), times Z31, and stores the four.
func (w *writer) fourSums(a int, dst string) {
	for i := range 2 {
		x, y := a+2*i, a+2*i+1
		w.p("VUNPCKLPS Z%d, Z%d, Z%d\nVUNPCKHPS Z%d, Z%d, Z3\nVADDPS Z3, Z%d, Z%d", y, x, i, y, x, i, i)
	}
	w.p("VUNPCKLPD Z1, Z0, Z2\nVUNPCKHPD Z1, Z0, Z3\nVADDPS Z3, Z2, Z0")
	w.p("VEXTRACTF64X4 $1, Z0, Y1\nVADDPS Y1, Y0, Y0\nVEXTRACTF128 $1, Y0, X1\nVADDPS X1, X0, X0")
	w.p("VMULPS X31, X0, X0\nVMOVUPS X0, %s", dst)
}

// mix writes the sums of 16·vecs columns of values, weighted for some queries.
// An element is one chain of fused steps in order. Z0 to Z3 hold a row of
// values, Z4 to Z7 weights, and Z8 and up the sums, vecs a query.
func (w *writer) mix(rows, vecs int, half bool) {
	name := fmt.Sprintf("mix%dx%d", rows, 16*vecs)
	if half {
		name += "BF16"
	}
	arg := w.function(name, fmt.Sprintf("is kernels.mix for %d rows and %d columns.", rows, 16*vecs),
		param{"n", "int"}, param{"p", "*float32"}, param{"pr", "int"}, param{"v", "*byte"}, param{"vr", "int"},
		param{"c", "*float32"}, param{"cr", "int"})
	for _, v := range [][2]string{{"n", "CX"}, {"p", "SI"}, {"pr", "R8"}, {"v", "BX"}, {"vr", "R9"}, {"c", "DI"}, {"cr", "R10"}} {
		w.p("MOVQ %s, %s", arg(v[0]), v[1])
	}
	w.p("LEAQ (SI)(R8*2), R12")
	for i := range rows * vecs {
		w.p("VXORPS Z%d, Z%d, Z%d", 8+i, 8+i, 8+i)
	}
	loop, size := w.label(), 64*vecs // bytes of a row
	if half {
		size = 32 * vecs
	}
	w.p("PCALIGN $32\n%s:", loop)
	for line := 0; line < size; line += 64 {
		w.p("PREFETCHT0 %d(BX)(R9*8)", line)
	}
	for v := range vecs {
		w.sixteen("(BX)", v, v, half)
	}
	for j, p := range []string{"(SI)", "(SI)(R8*1)", "(R12)", "(R12)(R8*1)"}[:rows] {
		w.p("VBROADCASTSS %s, Z%d", p, 4+j)
		for v := range vecs {
			w.p("VFMADD231PS Z%d, Z%d, Z%d", v, 4+j, 8+vecs*j+v)
		}
	}
	w.p("ADDQ R9, BX\nADDQ $4, SI\nADDQ $4, R12\nDECQ CX\nJNZ %s", loop)
	for j := range rows {
		for v := range vecs {
			acc := 8 + vecs*j + v
			w.p("VADDPS %d(DI), Z%d, Z%d\nVMOVUPS Z%d, %d(DI)", 64*v, acc, acc, acc, 64*v)
		}
		w.p("ADDQ R10, DI")
	}
	w.ret()
}
