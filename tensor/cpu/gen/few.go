package main

import (
	"fmt"
	"math"
	"strings"

	"pipe/tensor/quant"
)

// A stored is a weight in panels of 16 rows, as package cpu keeps it for
// products with few rows: blocks of 32 terms, each with scales (and minima) of
// the 16 rows and then 16 pairs of terms.
type stored struct {
	name         string
	scales       int // bytes of the scales of 16 rows: 32 of float16, 64 of float32, 0
	pairs, group int // pairs of a group, and bytes of it
	minimum      bool
	table        string // of the values of 4-bit codes
	// load sets Z0 and Z1 to the two terms, not scaled, of pair i of a group at
	// the given address; half sets Z0 to the pair in bfloat16. Both keep what
	// later pairs need in register raw.
	load, half func(w *writer, at func(off int) string, i, raw int)
}

// Eight codes of a row lie in a lane of 32 bits: pair i is codes i and i+4.
// VPERMPS looks at the lowest four bits of a lane, VPERMW at the lowest five of
// each half, of which it ignores the highest since the table repeats.
func codes(w *writer, at func(int) string, i, raw int) {
	if i == 0 {
		w.p("VMOVUPS %s, Z%d\nVPERMPS Z4, Z%d, Z0", at(0), raw, raw)
	} else {
		w.p("VPSRLD $%d, Z%d, Z0\nVPERMPS Z4, Z0, Z0", 4*i, raw)
	}
	w.p("VPSRLD $%d, Z%d, Z1\nVPERMPS Z4, Z1, Z1", 4*i+16, raw)
}

func halfCodes(w *writer, at func(int) string, i, raw int) {
	if i == 0 {
		w.p("VMOVUPS %s, Z%d\nVPERMW Z4, Z%d, Z0", at(0), raw, raw)
	} else {
		w.p("VPSRLD $%d, Z%d, Z0\nVPERMW Z4, Z0, Z0", 4*i, raw)
	}
}

func bytes8(w *writer, at func(int) string, _, _ int) {
	w.p("VPMOVSXBD %s, Z0\nVPMOVSXBD %s, Z1\nVCVTDQ2PS Z0, Z0\nVCVTDQ2PS Z1, Z1", at(0), at(16))
}

var storeds = []stored{
	{name: "Q4_0", scales: 32, pairs: 4, group: 64, table: "signed4", load: codes, half: halfCodes},
	{name: "Q4_1", scales: 32, pairs: 4, group: 64, table: "unsigned4", minimum: true, load: codes, half: halfCodes},
	{name: "NF4", scales: 64, pairs: 4, group: 64, table: "normal4", load: codes, half: halfCodes},
	{name: "Q8_0", scales: 32, pairs: 1, group: 32, load: bytes8, half: func(w *writer, at func(int) string, _, _ int) {
		bytes8(w, at, 0, 0)
		w.twoHalves(1, 0, 0)
		w.p("VPERMW Z0, Z5, Z0")
	}},
	{name: "BF16", pairs: 1, group: 64, load: func(w *writer, at func(int) string, _, _ int) {
		w.p("VMOVUPS %s, Z1\nVPSLLD $16, Z1, Z0\nVPANDD Z4, Z1, Z1", at(0))
	}, half: func(w *writer, at func(int) string, _, _ int) { w.p("VMOVUPS %s, Z0", at(0)) }},
}

// fewShapes are the rows of a kernel and the panels it reads side by side:
// enough sums for the latency of a multiplication and addition.
var fewShapes = [][2]int{{1, 4}, {2, 4}, {4, 2}, {8, 1}}

func (w *writer) few() {
	lanes := func(name string, v func(i int) uint32) {
		var b strings.Builder
		for i := range 8 {
			fmt.Fprintf(&b, "DATA %s<>+%d(SB)/8, $0x%08x%08x\n", name, 8*i, v(2*i+1), v(2*i))
		}
		w.table(b.String() + fmt.Sprintf("GLOBL %s<>(SB), RODATA|NOPTR, $64\n", name))
	}
	table := func(name string, v func(i int) float32) {
		lanes(name, func(i int) uint32 { return math.Float32bits(v(i)) })
		half := func(i int) uint32 { // rounded to even
			u := math.Float32bits(v(i % 16))
			return (u + 0x7fff + u>>16&1) >> 16
		}
		lanes(name+"Half", func(i int) uint32 { return half(2*i) | half(2*i+1)<<16 })
	}
	table("signed4", func(i int) float32 { return float32(i - 8) })
	table("unsigned4", func(i int) float32 { return float32(i) })
	nf4 := quant.NF4Map()
	table("normal4", func(i int) float32 { return nf4[i] })
	lanes("highHalves", func(int) uint32 { return 0xffff0000 })
	// Places of 16-bit lanes: those of the first 16 and of the last, in turn.
	lanes("interleave", func(i int) uint32 { return uint32(i) | uint32(16+i)<<16 })
	for _, s := range storeds {
		for _, half := range []bool{false, true} {
			for _, z := range fewShapes {
				w.fewKernel(s, z[0], z[1], half)
			}
		}
	}
}

// A fewKernel is the product of rows rows with panels·16 stored rows. Sums are
// Z6 and up, panels a row; those of a block, before they are scaled, Z14 and up.
type fewKernel struct {
	stored
	rows, panels int
	half         bool
}

func (f fewKernel) total(r, p int) int { return 6 + f.panels*r + p }
func (f fewKernel) part(r, p int) int {
	if f.scales == 0 {
		return f.total(r, p)
	}
	return 14 + f.panels*r + p
}

// at returns the address of panel p, off bytes on.
func (f fewKernel) at(p int) func(off int) string {
	return func(off int) string {
		return fmt.Sprintf("%d%s", off, []string{"(BX)", "(BX)(R11*1)", "(BX)(R11*2)", "(R12)"}[p])
	}
}

func (w *writer) fewKernel(s stored, rows, panels int, half bool) {
	f := fewKernel{s, rows, panels, half}
	name := fmt.Sprintf("few%dx%d%s", rows, 16*panels, s.name)
	if half {
		name += "Half"
	}
	arg := w.function(name, fmt.Sprintf("is a fewKernel for %d rows and %d columns, those set in mask.", rows, 16*panels),
		param{"blocks", "int"}, param{"x", "*float32"}, param{"sums", "*float32"}, param{"w", "*byte"}, param{"panel", "int"},
		param{"c", "*float32"}, param{"cr", "int"}, param{"mask", "int"}, param{"add", "int"}, param{"alpha", "float32"})
	for _, v := range [][2]string{{"mask", "DX"}, {"blocks", "CX"}, {"x", "AX"}, {"sums", "SI"}, {"w", "BX"}, {"panel", "R11"}, {"c", "DI"}, {"cr", "R8"}} {
		w.p("MOVQ %s, %s", arg(v[0]), v[1])
	}
	for p := range panels {
		w.p("KMOVW DX, K%d", p+1)
		if p+1 < panels {
			w.p("SHRQ $16, DX")
		}
	}
	if panels == 4 {
		w.p("LEAQ (BX)(R11*2), R12\nADDQ R11, R12")
	}
	switch {
	case s.table != "" && half:
		w.p("VMOVUPS %sHalf<>(SB), Z4", s.table)
	case s.table != "":
		w.p("VMOVUPS %s<>(SB), Z4", s.table)
	case s.name == "BF16":
		w.p("VMOVUPS highHalves<>(SB), Z4")
	case half:
		w.p("VMOVUPS interleave<>(SB), Z5")
	}
	for r := range rows {
		for p := range panels {
			w.p("VXORPS X%[1]d, X%[1]d, X%[1]d", f.total(r, p))
		}
	}
	w.fewBlocks(f)
	w.fewStore(f, arg)
}

// fewBlocks is the loop over blocks.
func (w *writer) fewBlocks(f fewKernel) {
	block, group := w.label(), w.label()
	head := f.scales
	if f.minimum {
		head *= 2
	}
	advance := func(n int) {
		w.p("ADDQ $%d, BX", n)
		if f.panels == 4 {
			w.p("ADDQ $%d, R12", n)
		}
	}
	w.p("%s:", block)
	if f.scales > 0 {
		advance(head)
		for r := range f.rows {
			for p := range f.panels {
				w.p("VXORPS X%[1]d, X%[1]d, X%[1]d", f.part(r, p))
			}
		}
	}
	w.p("MOVQ $%d, R13\nPCALIGN $16\n%s:", 16/f.pairs, group)
	step := 8 * f.rows * f.pairs
	if f.half {
		step /= 2
	}
	for i := range f.pairs {
		if f.rows == 1 {
			w.p("VBROADCASTSS %d(AX), Z2", step/f.pairs*i)
			if !f.half {
				w.p("VBROADCASTSS %d(AX), Z3", 8*i+4)
			}
		}
		for p := range f.panels {
			w.fewPair(f, p, i)
		}
	}
	advance(f.group)
	w.p("ADDQ $%d, AX\nDECQ R13\nJNZ %s", step, group)
	if f.scales > 0 {
		w.fewScale(f, head+16/f.pairs*f.group)
	}
	w.p("DECQ CX\nJNZ %s", block)
}

// fewPair multiplies pair i of a group of a panel. For one row, Z2 and Z3 hold
// its two numbers, or Z2 the pair.
func (w *writer) fewPair(f fewKernel, p, i int) {
	raw := 28 + p
	if f.half {
		f.stored.half(w, f.at(p), i, raw)
	} else {
		f.load(w, f.at(p), i, raw)
	}
	switch {
	case f.rows == 1 && f.half:
		w.dotHalf(2, 0, f.part(0, p))
	case f.rows == 1:
		w.p("VFMADD231PS Z0, Z2, Z%d\nVFMADD231PS Z1, Z3, Z%d", f.part(0, p), f.part(0, p))
	case f.half:
		for r := range f.rows {
			w.dotHalfAX(f.rows*i+r, 0, f.part(r, p))
		}
	default:
		for z := range 2 {
			for r := range f.rows {
				w.p("VFMADD231PS.BCST %d(AX), Z%d, Z%d", 4*(f.rows*(2*i+z)+r), z, f.part(r, p))
			}
		}
	}
}

// fewScale adds the sums of a block, scaled, and its minima times the sums of
// the terms of each row. The block began so many bytes before.
func (w *writer) fewScale(f fewKernel, size int) {
	for p := range f.panels {
		at := f.at(p)
		if f.scales == 32 {
			w.p("VCVTPH2PS %s, Z0", at(-size))
		} else {
			w.p("VMOVUPS %s, Z0", at(-size))
		}
		if f.minimum {
			w.p("VCVTPH2PS %s, Z1", at(32-size))
		}
		for r := range f.rows {
			w.p("VFMADD231PS Z0, Z%d, Z%d", f.part(r, p), f.total(r, p))
			if f.minimum {
				w.p("VFMADD231PS.BCST %d(SI), Z1, Z%d", 4*r, f.total(r, p))
			}
		}
	}
	if f.minimum {
		w.p("ADDQ $%d, SI", 4*f.rows)
	}
}

func (w *writer) fewStore(f fewKernel, arg func(string) string) {
	plain := w.label()
	w.p("VBROADCASTSS %s, Z0\nCMPQ %s, $0\nJEQ %s", arg("alpha"), arg("add"), plain)
	for _, add := range []bool{true, false} {
		if !add {
			w.p("%s:", plain)
		}
		for r := range f.rows {
			for p := range f.panels {
				if add {
					w.p("VFMADD213PS %d(DI), Z0, K%d, Z%d", 64*p, p+1, f.total(r, p))
				} else {
					w.p("VMULPS Z0, Z%d, Z%d", f.total(r, p), f.total(r, p))
				}
				w.p("VMOVUPS Z%d, K%d, %d(DI)", f.total(r, p), p+1, 64*p)
			}
			w.p("ADDQ R8, DI")
		}
		w.ret()
	}
}
