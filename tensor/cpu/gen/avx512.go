package main

import (
	"fmt"
	"strings"
)

// tileHeights are the rows of the AVX-512 tiles: 14 rows of 32 columns fill
// the registers, the others make up what is left of a matrix.
var tileHeights = []int{1, 2, 4, 8, 14}

// avx512 writes the kernels of 512-bit registers. Instructions that Go's
// assembler does not know are written as bytes.
func avx512() {
	w := &writer{consts: map[string]bool{}}
	for _, rows := range tileHeights {
		for vecs := 1; vecs <= 2; vecs++ {
			w.tile512(rows, vecs, false)
		}
	}
	for _, rows := range tileHeights {
		for vecs := 1; vecs <= 2; vecs++ {
			w.tile512(rows, vecs, true)
		}
	}
	w.halves()
	w.save("avx512")
	w = &writer{consts: map[string]bool{}}
	w.few()
	w.save("few")
	w = &writer{consts: map[string]bool{}}
	w.attention()
	w.save("attend")
}

// evex writes an instruction of map 0F38 with 512-bit registers and no mask:
// dst = op(src1, src2). pp is the prefix: 2 for F3, 3 for F2. src1 is -1 for
// instructions of one source.
func (w *writer) evex(pp, opcode, dst, src1, src2 int, text string) {
	not := func(v, bit int) int { return 1 - v>>bit&1 }
	v := src1
	if src1 < 0 {
		v = 0
	}
	p0 := not(dst, 3)<<7 | not(src2, 4)<<6 | not(src2, 3)<<5 | not(dst, 4)<<4 | 2
	p1 := (^v&15)<<3 | 4 | pp
	p2 := 2<<5 | not(v, 4)<<3
	w.p("BYTE $0x62; BYTE $0x%02x; BYTE $0x%02x; BYTE $0x%02x; BYTE $0x%02x; BYTE $0x%02x // %s", p0, p1, p2, opcode, 0xc0|dst&7<<3|src2&7, text)
}

// dotHalf adds the products of the pairs of bfloat16 in a and b to acc.
func (w *writer) dotHalf(a, b, acc int) {
	w.evex(2, 0x52, acc, a, b, fmt.Sprintf("VDPBF16PS Z%d, Z%d, Z%d", b, a, acc))
}

// dotHalfAX adds the products of the pair at (AX), pair places on, with those
// in b to acc.
func (w *writer) dotHalfAX(pair, b, acc int) {
	not := func(v, bit int) int { return 1 - v>>bit&1 }
	p0 := not(acc, 3)<<7 | 1<<6 | 1<<5 | not(acc, 4)<<4 | 2
	p1 := (^b&15)<<3 | 4 | 2
	p2 := 2<<5 | 1<<4 | not(b, 4)<<3
	w.p("BYTE $0x62; BYTE $0x%02x; BYTE $0x%02x; BYTE $0x%02x; BYTE $0x52; BYTE $0x%02x; BYTE $0x%02x // VDPBF16PS.BCST %d(AX), Z%d, Z%d",
		p0, p1, p2, 0x40|acc&7<<3, pair, 4*pair, b, acc)
}

// twoHalves rounds the 16 lanes of low and of high to bfloat16, in order.
func (w *writer) twoHalves(high, low, dst int) {
	w.evex(3, 0x72, dst, high, low, fmt.Sprintf("VCVTNE2PS2BF16 Z%d, Z%d, Z%d", low, high, dst))
}

// oneHalf rounds the 16 lanes of src to bfloat16 in the lower half of dst.
func (w *writer) oneHalf(src, dst int) {
	w.evex(2, 0x72, dst, -1, src, fmt.Sprintf("VCVTNEPS2BF16 Z%d, Y%d", src, dst))
}

// tile512 writes the product kernel for some rows of 16·vecs columns, of
// float32 or of pairs of bfloat16. Accumulators are Z4 and up, vecs a row; Z0
// and Z1 hold a row of b, whose columns K1 and K2 select. Operands whose terms
// lie together are read four terms at a time, and lines from ahead bytes behind b
// on, by bytes apart, are fetched meanwhile.
func (w *writer) tile512(rows, vecs int, half bool) {
	name, of := fmt.Sprintf("tile%dx%d", rows, 16*vecs), "kernels.tile"
	if half {
		name, of = "half"+strings.ToUpper(name[:1])+name[1:], "kernels.halfTile"
	}
	arg := w.function(name, fmt.Sprintf("is %s for %d rows and up to %d columns, those set in mask; add is 0 or 1.", of, rows, 16*vecs),
		param{"k", "int"}, param{"a", "*float32"}, param{"ar", "int"}, param{"ac", "int"}, param{"b", "*float32"}, param{"br", "int"},
		param{"c", "*float32"}, param{"cr", "int"}, param{"mask", "int"}, param{"add", "int"}, param{"ahead", "int"}, param{"by", "int"}, param{"alpha", "float32"})
	for _, v := range [][2]string{{"mask", "DX"}, {"k", "CX"}, {"a", "AX"}, {"ar", "R9"}, {"ac", "R10"}, {"b", "BX"}, {"br", "R11"}, {"c", "DI"}, {"cr", "R8"}} {
		w.p("MOVQ %s, %s", arg(v[0]), v[1])
	}
	w.p("KMOVW DX, K1")
	if vecs == 2 {
		w.p("SHRQ $16, DX\nKMOVW DX, K2")
	}
	bases := []string{"AX", "DX", "SI", "R12", "R13"}[:(rows+2)/3]
	if len(bases) > 1 {
		w.p("LEAQ (R9)(R9*2), R15")
	}
	for i := 1; i < len(bases); i++ {
		w.p("LEAQ (%s)(R15*1), %s", bases[i-1], bases[i])
	}
	for i := range rows * vecs {
		w.p("VXORPS Z%d, Z%d, Z%d", 4+i, 4+i, 4+i)
	}
	term := func(t int) { // that lies t terms on
		for v := range vecs {
			w.p("VMOVUPS.Z %d(BX), K%d, Z%d", 64*(vecs*t+v), v+1, v)
		}
		for i := range rows {
			a, at := 2+i%2, []string{"(%s)", "(%s)(R9*1)", "(%s)(R9*2)"}[i%3]
			at = fmt.Sprintf("%d"+at, 4*t, bases[i/3])
			if vecs == 1 && !half {
				w.p("VFMADD231PS.BCST %s, Z0, Z%d", at, 4+i)
				continue
			}
			w.p("VBROADCASTSS %s, Z%d", at, a)
			for v := range vecs {
				if half {
					w.dotHalf(a, v, 4+vecs*i+v)
				} else {
					w.p("VFMADD231PS Z%d, Z%d, Z%d", v, a, 4+vecs*i+v)
				}
			}
		}
	}
	advance := func(a, b string) {
		w.p("ADDQ %s, BX", b)
		for _, base := range bases {
			w.p("ADDQ %s, %s", a, base)
		}
	}
	four, loop, tail, done := w.label(), w.label(), w.label(), w.label()
	w.p("CMPQ R10, $4\nJNE %s\nCMPQ R11, $%d\nJNE %s", loop, 64*vecs, loop)
	w.p("MOVQ %s, R15\nADDQ BX, R15\nMOVQ %s, R14\nSUBQ $4, CX\nJLT %s\nPCALIGN $32\n%s:", arg("ahead"), arg("by"), tail, four)
	for t := range 4 {
		term(t)
		if t == 1 {
			w.p("PREFETCHT1 (R15)\nADDQ R14, R15")
		}
	}
	advance("$16", fmt.Sprintf("$%d", 256*vecs))
	w.p("SUBQ $4, CX\nJGE %s\n%s:\nADDQ $4, CX\nJZ %s", four, tail, done)
	w.p("PCALIGN $32\n%s:", loop)
	term(0)
	advance("R10", "R11")
	plain := w.label()
	w.p("DECQ CX\nJNZ %s\n%s:\nVBROADCASTSS %s, Z0\nCMPQ %s, $0\nJEQ %s", loop, done, arg("alpha"), arg("add"), plain)
	for _, add := range []bool{true, false} {
		if !add {
			w.p("%s:", plain)
		}
		for i := range rows {
			for v := range vecs {
				acc := 4 + vecs*i + v
				if add {
					w.p("VFMADD213PS %d(DI), Z0, K%d, Z%d", 64*v, v+1, acc)
				} else {
					w.p("VMULPS Z0, Z%d, Z%d", acc, acc)
				}
				w.p("VMOVUPS Z%d, K%d, %d(DI)", acc, v+1, 64*v)
			}
			w.p("ADDQ R8, DI")
		}
		w.ret()
	}
}

// halves writes the roundings to bfloat16.
func (w *writer) halves() {
	arg := w.function("halves32", "rounds n groups of 32 elements to bfloat16.", param{"n", "int"}, param{"dst", "*float32"}, param{"x", "*float32"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, SI", arg("n"), arg("dst"), arg("x"))
	loop := w.label()
	w.p("%s:\nVMOVUPS (SI), Z0\nVMOVUPS 64(SI), Z1", loop)
	w.twoHalves(1, 0, 2)
	w.p("VMOVUPS Z2, (DI)\nADDQ $128, SI\nADDQ $64, DI\nDECQ CX\nJNZ %s", loop)
	w.ret()

	arg = w.function("halfPairs16", "sets n groups of 16 pairs to the roundings of low and high.",
		param{"n", "int"}, param{"dst", "*float32"}, param{"low", "*float32"}, param{"high", "*float32"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, SI\nMOVQ %s, DX", arg("n"), arg("dst"), arg("low"), arg("high"))
	loop = w.label()
	w.p("%s:\nVMOVUPS (SI), Z0\nVMOVUPS (DX), Z1", loop)
	w.oneHalf(0, 2)
	w.oneHalf(1, 3)
	w.p("VPMOVZXWD Y2, Z2\nVPMOVZXWD Y3, Z3\nVPSLLD $16, Z3, Z3\nVPORD Z3, Z2, Z2\nVMOVUPS Z2, (DI)")
	w.p("ADDQ $64, SI\nADDQ $64, DX\nADDQ $64, DI\nDECQ CX\nJNZ %s", loop)
	w.ret()
}
