package main

import (
	"iter"
	"maps"
	"math"
	"slices"

	"pipe/tensor/quant"
)

// sorted ranges over m in order of its keys.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// A format is a stored type. load puts elements 8·i.. of the group at a
// register into Y(i), i < 4, as integers or as they are; scaled tells that they
// have yet to be multiplied by Y14, the scale, and min that Y13 is added.
type format struct {
	name        string
	bytes       int // of a group of 32 elements
	scaled, min bool
	load        func(at string)
}

// weights writes, for each format, the expansion to float32 and the
// product of four rows with a vector, both in groups of 32 elements.
func (w *writer) weights() {
	// Bytes become 32-bit lanes straight from memory, and only then halves:
	// shuffles are what these kernels wait for.
	nibbles := func(at string, from int, signed bool) {
		w.p("VPMOVZXBD %d(%s), Y0\nVPMOVZXBD %d(%s), Y1", from, at, from+8, at)
		w.p("VPSRLD $4, Y0, Y2\nVPSRLD $4, Y1, Y3\nVPAND Y12, Y0, Y0\nVPAND Y12, Y1, Y1")
		for i := range 4 {
			if signed {
				w.p("VPSUBD Y11, Y%d, Y%d", i, i)
			}
			w.p("VCVTDQ2PS Y%d, Y%d", i, i)
		}
	}
	scale := func(at string) { w.p("VPBROADCASTW (%s), X4\nVCVTPH2PS X4, Y14", at) }
	formats := []format{
		{name: "BF16", bytes: 64, load: func(at string) {
			for i := range 4 {
				w.p("VPMOVZXWD %d(%s), Y%d\nVPSLLD $16, Y%d, Y%d", 16*i, at, i, i, i)
			}
		}},
		{name: "F16", bytes: 64, load: func(at string) {
			for i := range 4 {
				w.p("VCVTPH2PS %d(%s), Y%d", 16*i, at, i)
			}
		}},
		{name: "Q8_0", bytes: 34, scaled: true, load: func(at string) {
			scale(at)
			for i := range 4 {
				w.p("VPMOVSXBD %d(%s), Y%d\nVCVTDQ2PS Y%d, Y%d", 2+8*i, at, i, i, i)
			}
		}},
		{name: "Q4_0", bytes: 18, scaled: true, load: func(at string) { scale(at); nibbles(at, 2, true) }},
		{name: "Q4_1", bytes: 20, scaled: true, min: true, load: func(at string) {
			w.p("VBROADCASTSS (%s), X4\nVCVTPH2PS X4, Y4\nVMOVSLDUP Y4, Y14\nVMOVSHDUP Y4, Y13", at) // scale, minimum
			nibbles(at, 4, false)
		}},
	}
	for _, f := range formats {
		w.expand(f)
		w.rowDots(f)
	}
	w.expandNF4()
}

func (w *writer) nibbleConstants() {
	w.p("VMOVDQU %s, Y12\nVMOVDQU %s, Y11", w.vector("fifteen", 15), w.vector("eight", 8))
}

// values loads the group at a register as float32. It rounds the product before
// it adds, as package quant does.
func (w *writer) values(f format, at string) {
	f.load(at)
	for i := range 4 {
		if f.scaled {
			w.p("VMULPS Y14, Y%d, Y%d", i, i)
		}
		if f.min {
			w.p("VADDPS Y13, Y%d, Y%d", i, i)
		}
	}
}

// expand writes float32 values.
func (w *writer) expand(f format) {
	arg := w.function("expand"+f.name, "expands n groups of 32 elements.",
		param{"n", "int"}, param{"dst", "*float32"}, param{"src", "*byte"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, SI", arg("n"), arg("dst"), arg("src"))
	w.nibbleConstants()
	loop := w.label()
	w.p("%s:", loop)
	w.values(f, "SI")
	for i := range 4 {
		w.p("VMOVUPS Y%d, %d(DI)", i, 32*i)
	}
	w.p("ADDQ $%d, SI\nADDQ $128, DI\nDECQ CX\nJNZ %s", f.bytes, loop)
	w.ret()
}

// rowDots takes the steps of expand and dots in their order: the results are
// the same bits.
func (w *writer) rowDots(f format) {
	arg := w.function("dots"+f.name, "sets out to the products of four rows, wr bytes apart, and x; n is in groups of 32.",
		param{"n", "int"}, param{"x", "*float32"}, param{"w", "*byte"}, param{"wr", "int"}, param{"out", "*float32"})
	w.p("MOVQ %s, CX\nMOVQ %s, DX\nMOVQ %s, SI\nMOVQ %s, R9\nMOVQ %s, DI", arg("n"), arg("x"), arg("w"), arg("wr"), arg("out"))
	w.p("LEAQ (SI)(R9*1), R10\nLEAQ (R10)(R9*1), R11\nLEAQ (R11)(R9*1), R12")
	w.nibbleConstants()
	for i := 7; i < 11; i++ {
		w.p("VXORPS Y%d, Y%d, Y%d", i, i, i)
	}
	loop, rows := w.label(), []string{"SI", "R10", "R11", "R12"}
	w.p("%s:", loop)
	for r, at := range rows {
		w.p("PREFETCHT0 4096(%s)", at) // hardware prefetch stops at the end of a page
		w.values(f, at)
		for i := range 4 {
			w.p("VFMADD231PS %d(DX), Y%d, Y%d", 32*i, i, 7+r)
		}
		w.p("ADDQ $%d, %s", f.bytes, at)
	}
	w.p("ADDQ $128, DX\nDECQ CX\nJNZ %s", loop)
	w.sums(7, 8, 9, 10, "(DI)")
	w.ret()
}

// nf4Constants loads the values of the codes below and above 8, and the
// shifts that bring element i of a 32-bit word, whose bytes hold the even
// elements in their high nibbles, down to the lowest bits.
func (w *writer) nf4Constants() {
	var v [16]uint32
	for q, x := range quant.NF4Map() {
		v[q] = math.Float32bits(x)
	}
	w.p("VMOVUPS %s, Y11\nVMOVUPS %s, Y12", w.lanes("nf4low", [8]uint32(v[:8])), w.lanes("nf4high", [8]uint32(v[8:])))
	w.p("VMOVDQU %s, Y13", w.lanes("nf4shift", [8]uint32{4, 0, 12, 8, 20, 16, 28, 24}))
}

// nf4 looks eight codes at a time up in both halves of the table, by their
// three low bits, and chooses by the fourth.
func (w *writer) nf4(group int) {
	w.p("VBROADCASTSS (SI), Y14")
	for i := range 4 {
		w.p("VPBROADCASTD %d(SI), Y%d\nVPSRLVD Y13, Y%d, Y%d", 4+16*group+4*i, i, i, i)
		w.p("VPERMPS Y11, Y%d, Y4\nVPERMPS Y12, Y%d, Y5", i, i)
		w.p("VPSLLD $28, Y%d, Y%d\nVBLENDVPS Y%d, Y5, Y4, Y%d", i, i, i, i)
	}
}

// expandNF4 writes the expansion of blocks of 64 elements.
func (w *writer) expandNF4() {
	arg := w.function("expandNF4", "expands n blocks of 64 elements.",
		param{"n", "int"}, param{"dst", "*float32"}, param{"src", "*byte"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, SI", arg("n"), arg("dst"), arg("src"))
	w.nf4Constants()
	loop := w.label()
	w.p("%s:", loop)
	for group := range 2 {
		w.nf4(group)
		for i := range 4 {
			w.p("VMULPS Y14, Y%d, Y%d\nVMOVUPS Y%d, %d(DI)", i, i, i, 128*group+32*i)
		}
	}
	w.p("ADDQ $36, SI\nADDQ $256, DI\nDECQ CX\nJNZ %s", loop)
	w.ret()
}
