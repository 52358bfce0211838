package main

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"

	"pipe/tensor/quant"
)

// unit names what a kernel counts.
func (f format) unit() string { return fmt.Sprintf("groups of %d elements", 32*max(f.groups, 1)) }

// begin loads the constants.
func (f format) begin() {
	if f.setup != nil {
		f.setup()
	}
}

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

// A format is a stored type, in blocks of one or more groups of 32 elements.
// load loads elements 8·i.. of a group of the block at (SI) into Y(i), i < 4,
// as integers or as they are; scaled tells that they have yet to be multiplied
// by Y14, the scale, and min that Y13 is added. setup, unless nil, loads
// constants into Y11, Y12 and Y13.
type format struct {
	name        string
	bytes       int // of a block
	groups      int // of a block; 0: one
	scaled, min bool
	setup       func()
	load        func(group int)
}

// weights writes, for each format, the expansion to float32 and the dot
// product with a vector, both a block at a time.
func (w *writer) weights() {
	// Bytes become 32-bit lanes straight from memory, and only then halves:
	// shuffles are what these kernels wait for.
	nibbles := func(at int, signed bool) {
		w.p("VPMOVZXBD %d(SI), Y0\nVPMOVZXBD %d(SI), Y1", at, at+8)
		w.p("VPSRLD $4, Y0, Y2\nVPSRLD $4, Y1, Y3\nVPAND Y12, Y0, Y0\nVPAND Y12, Y1, Y1")
		for i := range 4 {
			if signed {
				w.p("VPSUBD Y11, Y%d, Y%d", i, i)
			}
			w.p("VCVTDQ2PS Y%d, Y%d", i, i)
		}
	}
	scale := "VPBROADCASTW (SI), X4\nVCVTPH2PS X4, Y14"
	formats := []format{
		{name: "BF16", bytes: 64, load: func(int) {
			for i := range 4 {
				w.p("VPMOVZXWD %d(SI), Y%d\nVPSLLD $16, Y%d, Y%d", 16*i, i, i, i)
			}
		}},
		{name: "F16", bytes: 64, load: func(int) {
			for i := range 4 {
				w.p("VCVTPH2PS %d(SI), Y%d", 16*i, i)
			}
		}},
		{name: "Q8_0", bytes: 34, scaled: true, load: func(int) {
			w.p(scale)
			for i := range 4 {
				w.p("VPMOVSXBD %d(SI), Y%d\nVCVTDQ2PS Y%d, Y%d", 2+8*i, i, i, i)
			}
		}},
		{name: "Q4_0", bytes: 18, scaled: true, setup: w.nibbleConstants, load: func(int) { w.p(scale); nibbles(2, true) }},
		{name: "Q4_1", bytes: 20, scaled: true, min: true, setup: w.nibbleConstants, load: func(int) {
			w.p("VBROADCASTSS (SI), X4\nVCVTPH2PS X4, Y4\nVMOVSLDUP Y4, Y14\nVMOVSHDUP Y4, Y13") // scale, minimum
			nibbles(4, false)
		}},
		{name: "NF4", bytes: 36, groups: 2, scaled: true, setup: w.nf4Constants, load: w.nf4},
	}
	for _, f := range formats {
		w.expand(f)
		w.rowDot(f)
	}
}

func (w *writer) nibbleConstants() {
	w.p("VMOVDQU %s, Y12\nVMOVDQU %s, Y11", w.vector("fifteen", 15), w.vector("eight", 8))
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

// advance moves to the next block of f, and its elements at the register x.
func (w *writer) advance(f format, x, loop string) {
	w.p("ADDQ $%d, SI\nADDQ $%d, %s\nDECQ CX\nJNZ %s", f.bytes, 128*max(f.groups, 1), x, loop)
}

// expand rounds the product before it adds, as package quant does.
func (w *writer) expand(f format) {
	arg := w.function("expand"+f.name, "expands n "+f.unit()+".",
		param{"n", "int"}, param{"dst", "*float32"}, param{"src", "*byte"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, SI", arg("n"), arg("dst"), arg("src"))
	f.begin()
	loop := w.label()
	w.p("%s:", loop)
	for g := range max(f.groups, 1) {
		f.load(g)
		for i := range 4 {
			if f.scaled {
				w.p("VMULPS Y14, Y%d, Y%d", i, i)
			}
			if f.min {
				w.p("VADDPS Y13, Y%d, Y%d", i, i)
			}
			w.p("VMOVUPS Y%d, %d(DI)", i, 128*g+32*i)
		}
	}
	w.advance(f, "DI", loop)
	w.ret()
}

func (w *writer) rowDot(f format) {
	arg := w.function("dot"+f.name, "sets out to eight partial sums over n "+f.unit()+".",
		param{"n", "int"}, param{"x", "*float32"}, param{"row", "*byte"}, param{"out", "*float32"})
	w.p("MOVQ %s, CX\nMOVQ %s, DX\nMOVQ %s, SI\nMOVQ %s, DI", arg("n"), arg("x"), arg("row"), arg("out"))
	f.begin()
	for i := 7; i < 11; i++ {
		w.p("VXORPS Y%d, Y%d, Y%d", i, i, i)
	}
	loop := w.label()
	w.p("%s:\nPREFETCHT0 2048(SI)", loop) // hardware prefetch stops at the end of a page
	for g := range max(f.groups, 1) {
		f.load(g)
		at := 128 * g
		if f.scaled {
			w.p("VMULPS %d(DX), Y0, Y0\nVMULPS %d(DX), Y1, Y1\nVFMADD231PS %d(DX), Y2, Y0\nVFMADD231PS %d(DX), Y3, Y1", at, at+32, at+64, at+96)
			w.p("VFMADD231PS Y0, Y14, Y%d\nVFMADD231PS Y1, Y14, Y%d", 7+2*g, 8+2*g)
		} else {
			for i := range 4 {
				w.p("VFMADD231PS %d(DX), Y%d, Y%d", at+32*i, i, 7+i)
			}
		}
		if f.min {
			w.p("VMOVUPS (DX), Y5\nVMOVUPS 32(DX), Y6\nVADDPS 64(DX), Y5, Y5\nVADDPS 96(DX), Y6, Y6\nVADDPS Y6, Y5, Y5")
			w.p("VFMADD231PS Y5, Y13, Y9")
		}
	}
	w.advance(f, "DX", loop)
	w.p("VADDPS Y8, Y7, Y7\nVADDPS Y10, Y9, Y9\nVADDPS Y9, Y7, Y7\nVMOVUPS Y7, (DI)")
	w.ret()
}
