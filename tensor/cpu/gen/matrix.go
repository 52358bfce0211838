package main

import "fmt"

// tile writes the product kernel for some rows of 16 columns. Accumulators
// are Y4 and up, two a row; Y0 and Y1 hold a row of b. With masked, at most
// four rows, the columns are those of which Y14 and Y15 have the sign bit.
func (w *writer) tile(rows int, masked bool) {
	name, doc := fmt.Sprintf("tile%d", rows), fmt.Sprintf("is kernels.tile for %d rows; add is 0 or 1.", rows)
	params := []param{{"k", "int"}, {"a", "*float32"}, {"ar", "int"}, {"ac", "int"}, {"b", "*float32"},
		{"br", "int"}, {"c", "*float32"}, {"cr", "int"}, {"add", "int"}}
	load := func(from string, y int) { w.p("VMOVUPS %s, Y%d", from, y) }
	if masked {
		name, doc = fmt.Sprintf("edge%d", rows), fmt.Sprintf("is kernels.tile for %d rows of cols columns; add is 0 or 1.", rows)
		params = append(params, param{"cols", "int"})
		load = func(from string, y int) { w.p("VMASKMOVPS %s, Y%d, Y%d", from, 14+y%2, y) }
	}
	arg := w.function(name, doc, append(params, param{"alpha", "float32"})...)
	for _, v := range [][2]string{{"k", "CX"}, {"a", "AX"}, {"ar", "R9"}, {"ac", "R10"}, {"b", "BX"}, {"br", "R11"}, {"c", "DI"}, {"cr", "R8"}} {
		w.p("MOVQ %s, %s", arg(v[0]), v[1])
	}
	if masked { // the masks begin at lane 8 less the columns of each half
		w.p("MOVQ %s, DX\nLEAQ mask<>+32(SB), SI\nMOVQ $8, R12\nCMPQ DX, R12\nCMOVQLT DX, R12\nSUBQ R12, DX", arg("cols"))
		w.p("SHLQ $2, R12\nSHLQ $2, DX\nMOVQ SI, R13\nSUBQ R12, R13\nSUBQ DX, SI\nVMOVUPS (R13), Y14\nVMOVUPS (SI), Y15")
	}
	if rows > 3 {
		w.p("LEAQ (AX)(R9*2), DX\nADDQ R9, DX")
	}
	c := []string{"(DI)", "(DI)(R8*1)", "(DI)(R8*2)", "(R12)", "(R12)(R8*1)", "(R12)(R8*2)"}
	w.p("LEAQ (DI)(R8*2), R12\nADDQ R8, R12")
	for i := range rows {
		w.p("VXORPS Y%d, Y%d, Y%d\nVXORPS Y%d, Y%d, Y%d", 4+2*i, 4+2*i, 4+2*i, 5+2*i, 5+2*i, 5+2*i)
		w.p("PREFETCHT0 %s", c[i])
	}
	step := func() {
		load("(BX)", 0)
		load("32(BX)", 1)
		w.p("ADDQ R11, BX")
		for i, a := range []string{"(AX)", "(AX)(R9*1)", "(AX)(R9*2)", "(DX)", "(DX)(R9*1)", "(DX)(R9*2)"}[:rows] {
			w.p("VBROADCASTSS %s, Y%d", a, 2+i%2)
			w.p("VFMADD231PS Y0, Y%d, Y%d\nVFMADD231PS Y1, Y%d, Y%d", 2+i%2, 4+2*i, 2+i%2, 5+2*i)
		}
		w.p("ADDQ R10, AX")
		if rows > 3 {
			w.p("ADDQ R10, DX")
		}
	}
	loop, tail, one, done := w.label(), w.label(), w.label(), w.label()
	w.p("SUBQ $4, CX\nJLT %s\nPCALIGN $32\n%s:", tail, loop)
	if !masked {
		w.p("PREFETCHT0 1024(BX)\nPREFETCHT0 1088(BX)\nPREFETCHT0 1152(BX)\nPREFETCHT0 1216(BX)")
	}
	for range 4 {
		step()
	}
	w.p("SUBQ $4, CX\nJGE %s\n%s:\nADDQ $4, CX\nJLE %s\n%s:", loop, tail, done, one)
	step()
	w.p("DECQ CX\nJNZ %s\n%s:", one, done)
	plain := w.label()
	w.p("VBROADCASTSS %s, Y0\nCMPQ %s, $0\nJEQ %s", arg("alpha"), arg("add"), plain)
	for _, add := range []bool{true, false} {
		if !add {
			w.p("%s:", plain)
		}
		for i := range rows {
			for h := range 2 {
				acc, at := 4+2*i+h, fmt.Sprintf("%d%s", 32*h, c[i])
				switch {
				case add && masked:
					load(at, 2+h)
					w.p("VFMADD213PS Y%d, Y0, Y%d", 2+h, acc)
				case add:
					w.p("VFMADD213PS %s, Y0, Y%d", at, acc)
				default:
					w.p("VMULPS Y0, Y%d, Y%d", acc, acc)
				}
				if masked {
					w.p("VMASKMOVPS Y%d, Y%d, %s", acc, 14+h, at)
				} else {
					w.p("VMOVUPS Y%d, %s", acc, at)
				}
			}
		}
		w.ret()
	}
}

// sums adds up the lanes of four registers and stores the four results.
func (w *writer) sums(a, b, c, d int, dst string) {
	w.p("VHADDPS Y%d, Y%d, Y%d\nVHADDPS Y%d, Y%d, Y%d\nVHADDPS Y%d, Y%d, Y%d", b, a, a, d, c, c, c, a, a)
	w.p("VEXTRACTF128 $1, Y%d, X%d\nVADDPS X%d, X%d, X%d\nVMOVUPS X%d, %s", a, b, b, a, a, a, dst)
}

// dots writes the product of four rows with n vectors. Each result is one
// chain of sums in eight lanes, whatever n is. Rows may be far apart, as those of
// a cache, which no processor fetches by itself.
func (w *writer) dots(n int) {
	arg := w.function(fmt.Sprintf("dots%d", n), fmt.Sprintf("is kernels.dots for n = %d; k is in groups of 8.", n),
		param{"k", "int"}, param{"w", "*float32"}, param{"wr", "int"}, param{"x", "*float32"}, param{"xr", "int"}, param{"out", "*float32"})
	for _, v := range [][2]string{{"k", "CX"}, {"w", "BX"}, {"wr", "R9"}, {"x", "SI"}, {"xr", "R8"}, {"out", "DI"}} {
		w.p("MOVQ %s, %s", arg(v[0]), v[1])
	}
	w.p("LEAQ (R9)(R9*2), R10\nLEAQ (BX)(R9*8), R11")
	for i := 4; i < 4+4*n; i++ {
		w.p("VXORPS Y%d, Y%d, Y%d", i, i, i)
	}
	loop := w.label()
	w.p("%s:", loop)
	for j, x := range []string{"(SI)", "(SI)(R8*1)", "(SI)(R8*2)"}[:n] {
		w.p("VMOVUPS %s, Y%d", x, j)
	}
	for i, row := range []string{"(BX)", "(BX)(R9*1)", "(BX)(R9*2)", "(BX)(R10*1)"} {
		w.p("VMOVUPS %s, Y3", row)
		for j := range n {
			w.p("VFMADD231PS Y3, Y%d, Y%d", j, 4+4*j+i)
		}
	}
	for _, row := range []string{"(R11)", "(R11)(R9*1)", "(R11)(R9*2)", "(R11)(R10*1)"} {
		w.p("PREFETCHT0 %s", row) // of the next but one call
	}
	w.p("ADDQ $32, SI\nADDQ $32, BX\nADDQ $32, R11\nDECQ CX\nJNZ %s", loop)
	for j := range n {
		w.sums(4+4*j, 5+4*j, 6+4*j, 7+4*j, fmt.Sprintf("%d(DI)", 16*j))
	}
	w.ret()
}

// transpose writes the transposition of 8 or 16 rows, eight columns at a time.
func (w *writer) transpose(rows int) {
	arg := w.function(fmt.Sprintf("pack%d", rows), fmt.Sprintf("writes the transpose of %d rows, sr apart, in rows dr apart; k is in groups of 8.", rows),
		param{"k", "int"}, param{"dst", "*float32"}, param{"dr", "int"}, param{"src", "*float32"}, param{"sr", "int"})
	w.p("MOVQ %s, CX\nMOVQ %s, DI\nMOVQ %s, R8\nMOVQ %s, SI\nMOVQ %s, R9", arg("k"), arg("dst"), arg("dr"), arg("src"), arg("sr"))
	w.p("LEAQ (R8)(R8*2), AX\nLEAQ (DI)(R8*4), BX")
	w.p("LEAQ (R9)(R9*2), R10\nLEAQ (SI)(R9*4), R11\nLEAQ (SI)(R9*8), R12\nLEAQ (R12)(R9*4), R13")
	loop := w.label()
	w.p("%s:", loop)
	for h, bases := range [][2]string{{"SI", "R11"}, {"R12", "R13"}}[:rows/8] {
		for i, f := range []string{"(%s)", "(%s)(R9*1)", "(%s)(R9*2)", "(%s)(R10*1)"} {
			w.p("VMOVUPS "+f+", Y%d\nVMOVUPS "+f+", Y%d", bases[0], i, bases[1], i+4)
		}
		for i := range 4 { // pairs of rows, interleaved
			w.p("VUNPCKLPS Y%d, Y%d, Y%d\nVUNPCKHPS Y%d, Y%d, Y%d", 2*i+1, 2*i, 8+2*i, 2*i+1, 2*i, 9+2*i)
		}
		for i, s := range [][2]int{{8, 10}, {9, 11}, {12, 14}, {13, 15}} { // fours
			w.p("VSHUFPS $0x44, Y%d, Y%d, Y%d\nVSHUFPS $0xEE, Y%d, Y%d, Y%d", s[1], s[0], 2*i, s[1], s[0], 2*i+1)
		}
		for i := range 4 { // eights
			w.p("VPERM2F128 $0x20, Y%d, Y%d, Y8\nVPERM2F128 $0x31, Y%d, Y%d, Y9", i+4, i, i+4, i)
			at := []string{"", "(R8*1)", "(R8*2)", "(AX*1)"}[i]
			w.p("VMOVUPS Y8, %d(DI)%s\nVMOVUPS Y9, %d(BX)%s", 32*h, at, 32*h, at)
		}
	}
	for _, r := range []string{"SI", "R11", "R12", "R13"} {
		w.p("ADDQ $32, %s", r)
	}
	w.p("LEAQ (DI)(R8*8), DI\nLEAQ (BX)(R8*8), BX\nDECQ CX\nJNZ %s", loop)
	w.ret()
}

// reductions writes dot, dot64 and max.
func (w *writer) reductions() {
	two := []param{{"n", "int"}, {"x", "*float32"}, {"y", "*float32"}}
	arg := w.function("dot32", "sets out to eight partial sums of x·y; n is in groups of 8.", append(two, param{"out", "*float32"})...)
	w.p("MOVQ %s, CX\nMOVQ %s, SI\nMOVQ %s, DX\nMOVQ %s, DI", arg("n"), arg("x"), arg("y"), arg("out"))
	w.unrolled(4, func(i int) { w.p("VMOVUPS %d(SI), Y8\nVFMADD231PS %d(DX), Y8, Y%d", 32*i, 32*i, i) },
		func(n int) { w.p("ADDQ $%d, SI\nADDQ $%d, DX", 32*n, 32*n) })
	w.p("VADDPS Y1, Y0, Y0\nVADDPS Y3, Y2, Y2\nVADDPS Y2, Y0, Y0\nVMOVUPS Y0, (DI)")
	w.ret()

	arg = w.function("dot64", "sets out to four partial sums of x·y in float64; n is in groups of 4.", append(two, param{"out", "*float64"})...)
	w.p("MOVQ %s, CX\nMOVQ %s, SI\nMOVQ %s, DX\nMOVQ %s, DI", arg("n"), arg("x"), arg("y"), arg("out"))
	w.unrolled(4, func(i int) {
		w.p("VCVTPS2PD %d(SI), Y8\nVCVTPS2PD %d(DX), Y9\nVFMADD231PD Y8, Y9, Y%d", 16*i, 16*i, i)
	}, func(n int) { w.p("ADDQ $%d, SI\nADDQ $%d, DX", 16*n, 16*n) })
	w.p("VADDPD Y1, Y0, Y0\nVADDPD Y3, Y2, Y2\nVADDPD Y2, Y0, Y0\nVMOVUPD Y0, (DI)")
	w.ret()

	// A comparison with NaN yields the second source, which is the maximum.
	arg = w.function("max8", "raises out to the numbers of x.",
		param{"n", "int"}, param{"x", "*float32"}, param{"out", "*float32"})
	w.p("MOVQ %s, CX\nMOVQ %s, SI\nMOVQ %s, DI\nVBROADCASTSS (DI), Y0", arg("n"), arg("x"), arg("out"))
	loop, tail, one, done := w.label(), w.label(), w.label(), w.label()
	w.p("SUBQ $8, CX\nJLT %s\n%s:\nVMOVUPS (SI), Y1\nVMAXPS Y0, Y1, Y0\nADDQ $32, SI\nSUBQ $8, CX\nJGE %s", tail, loop, loop)
	w.p("%s:\nADDQ $8, CX\nJZ %s\n%s:\nVBROADCASTSS (SI), Y1\nVMAXPS Y0, Y1, Y0\nADDQ $4, SI\nDECQ CX\nJNZ %s", tail, done, one, one)
	w.p("%s:\nVEXTRACTF128 $1, Y0, X1\nVMAXPS X1, X0, X0\nVPERMILPS $0x4E, X0, X1\nVMAXPS X1, X0, X0\nVPERMILPS $0xB1, X0, X1\nVMAXPS X1, X0, X0\nVMOVSS X0, (DI)", done)
	w.ret()
}

// unrolled clears Y0.. and runs body(0..u-1) for u groups at a time while CX
// lasts, then body(0) for one.
func (w *writer) unrolled(u int, body func(i int), advance func(n int)) {
	for i := range u {
		w.p("VXORPS Y%d, Y%d, Y%d", i, i, i)
	}
	loop, tail, one, done := w.label(), w.label(), w.label(), w.label()
	w.p("SUBQ $%d, CX\nJLT %s\n%s:", u, tail, loop)
	for i := range u {
		body(i)
	}
	advance(u)
	w.p("SUBQ $%d, CX\nJGE %s\n%s:\nADDQ $%d, CX\nJEQ %s\n%s:", u, loop, tail, u, done, one)
	body(0)
	advance(1)
	w.p("DECQ CX\nJNZ %s\n%s:", one, done)
}
