package main

import (
	"iter"
	"maps"
	"slices"
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

// A format is a stored type. elements loads elements 8·i.. of the group at
// (SI) into Y(i), i < 4, as integers or as they are; scaled tells that they
// have yet to be multiplied by Y14, the scale, and min that Y13 is added.
type format struct {
	name        string
	bytes       int // of a group of 32 elements
	scaled, min bool
	load        func()
}

// weights writes, for each format, the expansion to float32 and the dot
// product with a vector, both in groups of 32 elements.
func (w *writer) weights() {
	// Bytes become 32-bit lanes straight from memory, and only then halves:
	// shuffles are what these kernels wait for.
	nibbles := func(at int, signed bool) func() {
		return func() {
			w.p("VPMOVZXBD %d(SI), Y0\nVPMOVZXBD %d(SI), Y1", at, at+8)
			w.p("VPSRLD $4, Y0, Y2\nVPSRLD $4, Y1, Y3\nVPAND Y12, Y0, Y0\nVPAND Y12, Y1, Y1")
			for i := range 4 {
				if signed {
					w.p("VPSUBD Y11, Y%d, Y%d", i, i)
				}
				w.p("VCVTDQ2PS Y%d, Y%d", i, i)
			}
		}
	}
	scale := "VPBROADCASTW (SI), X4\nVCVTPH2PS X4, Y14"
	formats := []format{
		{name: "BF16", bytes: 64, load: func() {
			for i := range 4 {
				w.p("VPMOVZXWD %d(SI), Y%d\nVPSLLD $16, Y%d, Y%d", 16*i, i, i, i)
			}
		}},
		{name: "F16", bytes: 64, load: func() {
			for i := range 4 {
				w.p("VCVTPH2PS %d(SI), Y%d", 16*i, i)
			}
		}},
		{name: "Q8_0", bytes: 34, scaled: true, load: func() {
			w.p(scale)
			for i := range 4 {
				w.p("VPMOVSXBD %d(SI), Y%d\nVCVTDQ2PS Y%d, Y%d", 2+8*i, i, i, i)
			}
		}},
		{name: "Q4_0", bytes: 18, scaled: true, load: func() { w.p(scale); nibbles(2, true)() }},
		{name: "Q4_1", bytes: 20, scaled: true, min: true, load: func() {
			w.p("VBROADCASTSS (SI), X4\nVCVTPH2PS X4, Y4\nVMOVSLDUP Y4, Y14\nVMOVSHDUP Y4, Y13") // scale, minimum
			nibbles(4, false)()
		}},
	}
	for _, f := range formats {
		w.expand(f)
		w.rowDot(f)
	}
}

func (w *writer) nibbleConstants() {
	w.p("VMOVDQU %s, Y12\nVMOVDQU %s, Y11", w.vector("fifteen", 15), w.vector("eight", 8))
}

// expand rounds the product before it adds, as package quant does.
func (w *writer) expand(f format) {
	arg := w.function("expand"+f.name, "expands n groups of 32 elements.",
		param{"n", "int"}, param{"dst", "*float32"}, param{"src", "*byte"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, SI", arg("n"), arg("dst"), arg("src"))
	w.nibbleConstants()
	loop := w.label()
	w.p("%s:", loop)
	f.load()
	for i := range 4 {
		if f.scaled {
			w.p("VMULPS Y14, Y%d, Y%d", i, i)
		}
		if f.min {
			w.p("VADDPS Y13, Y%d, Y%d", i, i)
		}
		w.p("VMOVUPS Y%d, %d(DI)", i, 32*i)
	}
	w.p("ADDQ $%d, SI\nADDQ $128, DI\nDECQ CX\nJNZ %s", f.bytes, loop)
	w.ret()
}

func (w *writer) rowDot(f format) {
	arg := w.function("dot"+f.name, "sets out to eight partial sums over n groups of 32 elements.",
		param{"n", "int"}, param{"x", "*float32"}, param{"row", "*byte"}, param{"out", "*float32"})
	w.p("MOVQ %s, CX\nMOVQ %s, DX\nMOVQ %s, SI\nMOVQ %s, DI", arg("n"), arg("x"), arg("row"), arg("out"))
	w.nibbleConstants()
	for i := 7; i < 11; i++ {
		w.p("VXORPS Y%d, Y%d, Y%d", i, i, i)
	}
	loop := w.label()
	w.p("%s:\nPREFETCHT0 2048(SI)", loop) // hardware prefetch stops at the end of a page
	f.load()
	if f.scaled {
		w.p("VMULPS (DX), Y0, Y0\nVMULPS 32(DX), Y1, Y1\nVFMADD231PS 64(DX), Y2, Y0\nVFMADD231PS 96(DX), Y3, Y1")
		w.p("VFMADD231PS Y0, Y14, Y7\nVFMADD231PS Y1, Y14, Y8")
	} else {
		for i := range 4 {
			w.p("VFMADD231PS %d(DX), Y%d, Y%d", 32*i, i, 7+i)
		}
	}
	if f.min {
		w.p("VMOVUPS (DX), Y5\nVMOVUPS 32(DX), Y6\nVADDPS 64(DX), Y5, Y5\nVADDPS 96(DX), Y6, Y6\nVADDPS Y6, Y5, Y5")
		w.p("VFMADD231PS Y5, Y13, Y9")
	}
	w.p("ADDQ $%d, SI\nADDQ $128, DX\nDECQ CX\nJNZ %s", f.bytes, loop)
	w.p("VADDPS Y8, Y7, Y7\nVADDPS Y10, Y9, Y9\nVADDPS Y9, Y7, Y7\nVMOVUPS Y7, (DI)")
	w.ret()
}
