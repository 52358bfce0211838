package main

import (
	"fmt"
	"math"
	"strings"
)

// A stored is a weight in panels of 16 rows, as package cpu keeps it for
// products with few rows: blocks of 32 terms, each with scales (and minima) of
// the 16 rows and then 16 pairs of terms. load sets Z0 and Z1 to the two terms
// of pair i of a group at the given address, keeping what later pairs need in
// register raw; they are yet to be multiplied by the scales, if there are any,
// and a minimum added.
type stored struct {
	name            string
	scales          int // bytes of the scales of 16 rows: 32 of float16, 64 of float32, 0
	pairs, group    int // pairs of a group, and bytes of it
	minimum, packed bool
	table           string // of the values of 4-bit codes
	load            func(w *writer, at func(off int) string, i, raw int)
}

// codes reads eight codes of each row from one lane of 32 bits: VPERMPS looks at
// the lowest four bits.
func codes(w *writer, at func(int) string, i, raw int) {
	if i == 0 {
		w.p("VMOVUPS %s, Z%d\nVPERMPS Z4, Z%d, Z0", at(0), raw, raw)
	} else {
		w.p("VPSRLD $%d, Z%d, Z0\nVPERMPS Z4, Z0, Z0", 8*i, raw)
	}
	w.p("VPSRLD $%d, Z%d, Z1\nVPERMPS Z4, Z1, Z1", 8*i+4, raw)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

var storeds = []stored{
	{name: "Q4_0", scales: 32, pairs: 4, group: 64, table: "signed4", load: codes},
	{name: "Q4_1", scales: 32, pairs: 4, group: 64, table: "unsigned4", minimum: true, load: codes},
	{name: "NF4", scales: 64, pairs: 4, group: 64, table: "normal4", load: codes},
	{name: "Q8_0", scales: 32, pairs: 1, group: 32, load: func(w *writer, at func(off int) string, _, _ int) {
		w.p("VPMOVSXBD %s, Z0\nVPMOVSXBD %s, Z1\nVCVTDQ2PS Z0, Z0\nVCVTDQ2PS Z1, Z1", at(0), at(16))
	}},
	{name: "BF16", pairs: 1, group: 64, packed: true, load: func(w *writer, at func(off int) string, _, _ int) {
		w.p("VMOVUPS %s, Z1\nVPSLLD $16, Z1, Z0\nVPANDD Z4, Z1, Z1", at(0))
	}},
}

// fewShapes are the rows of a kernel and the panels it reads side by side:
// enough sums for the latency of a multiplication and addition.
var fewShapes = [][2]int{{1, 4}, {2, 4}, {4, 2}, {8, 1}, {16, 1}}

func (w *writer) few() {
	floats := func(name string, v func(i int) float32) {
		var b strings.Builder
		for i := range 8 {
			fmt.Fprintf(&b, "DATA %s<>+%d(SB)/8, $0x%08x%08x\n", name, 8*i, math.Float32bits(v(2*i+1)), math.Float32bits(v(2*i)))
		}
		w.table(b.String() + fmt.Sprintf("GLOBL %s<>(SB), RODATA|NOPTR, $64\n", name))
	}
	floats("signed4", func(i int) float32 { return float32(i - 8) })
	floats("unsigned4", func(i int) float32 { return float32(i) })
	nf4 := [16]float32{-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
		-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
		0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
		0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1}
	floats("normal4", func(i int) float32 { return nf4[i] })
	floats("highHalves", func(int) float32 { return math.Float32frombits(0xffff0000) })
	// Places of 16-bit lanes: those of the first 16 and of the last, in turn.
	floats("interleave", func(i int) float32 { return math.Float32frombits(uint32(i) | uint32(16+i)<<16) })
	for _, s := range storeds {
		for _, half := range []bool{false, true} {
			for _, z := range fewShapes {
				w.fewKernel(s, z[0], z[1], half)
			}
		}
	}
}

// fewKernel writes the product of rows rows with panels·16 stored rows. Sums are
// Z14 and up, panels a row; Z6 and up are the scales, Z10 and up the minima.
func (w *writer) fewKernel(s stored, rows, panels int, half bool) {
	name := fmt.Sprintf("few%dx%d%s", rows, 16*panels, s.name)
	if half {
		name += "Half"
	}
	arg := w.function(name, fmt.Sprintf("is stored.kernels for %d rows and %d columns, those set in mask.", rows, 16*panels),
		param{"blocks", "int"}, param{"x", "*float32"}, param{"w", "*byte"}, param{"panel", "int"}, param{"c", "*float32"},
		param{"cr", "int"}, param{"mask", "int"}, param{"add", "int"}, param{"alpha", "float32"})
	for _, v := range [][2]string{{"mask", "DX"}, {"blocks", "CX"}, {"x", "AX"}, {"w", "BX"}, {"panel", "R11"}, {"c", "DI"}, {"cr", "R8"}} {
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
	case s.table != "":
		w.p("VMOVUPS %s<>(SB), Z4", s.table)
	case s.packed && !half:
		w.p("VMOVUPS highHalves<>(SB), Z4")
	}
	if half && !s.packed {
		w.p("VMOVUPS interleave<>(SB), Z5")
	}
	for i := range rows * panels {
		w.p("VXORPS Z%d, Z%d, Z%d", 14+i, 14+i, 14+i)
	}
	at := func(p int) func(off int) string {
		return func(off int) string {
			return fmt.Sprintf("%d%s", off, []string{"(BX)", "(BX)(R11*1)", "(BX)(R11*2)", "(R12)"}[p])
		}
	}
	advance := func(n int) {
		w.p("ADDQ $%d, BX", n)
		if panels == 4 {
			w.p("ADDQ $%d, R12", n)
		}
	}
	block, pair := w.label(), w.label()
	w.p("%s:", block)
	for p := range panels {
		w.scales(s, at(p), p)
	}
	if head := s.head(); head > 0 {
		advance(head)
	}
	w.p("MOVQ $%d, R13\nPCALIGN $16\n%s:", 16/s.pairs, pair)
	for i := range s.pairs {
		if rows == 1 {
			w.p("VBROADCASTSS %d(AX), Z2", 4*i*(2-b2i(half)))
			if !half {
				w.p("VBROADCASTSS %d(AX), Z3", 8*i+4)
			}
		}
		for p := range panels {
			w.fewPair(s, rows, panels, p, i, half, at(p))
		}
	}
	step := 8 * rows * s.pairs
	if half {
		step /= 2
	}
	advance(s.group)
	w.p("ADDQ $%d, AX\nDECQ R13\nJNZ %s\nDECQ CX\nJNZ %s", step, pair, block)
	w.fewStore(rows, panels, arg)
}

// head returns the bytes before the pairs of a block.
func (s stored) head() int {
	if s.minimum {
		return 2 * s.scales
	}
	return s.scales
}

func (w *writer) scales(s stored, at func(int) string, p int) {
	switch s.scales {
	case 32:
		w.p("VCVTPH2PS %s, Z%d", at(0), 6+p)
		if s.minimum {
			w.p("VCVTPH2PS %s, Z%d", at(32), 10+p)
		}
	case 64:
		w.p("VMOVUPS %s, Z%d", at(0), 6+p)
	}
}

// fewPair multiplies pair i of a group of a panel.
func (w *writer) fewPair(s stored, rows, panels, p, i int, half bool, at func(int) string) {
	if half && s.packed {
		w.p("VMOVUPS %s, Z0", at(0))
	} else {
		raw := 26 + p
		if panels == 1 {
			raw = 30
		}
		s.load(w, at, i, raw)
		for z := range 2 {
			if s.scales > 0 {
				w.p("VMULPS Z%d, Z%d, Z%d", 6+p, z, z)
			}
			if s.minimum {
				w.p("VADDPS Z%d, Z%d, Z%d", 10+p, z, z)
			}
		}
		if half {
			w.twoHalves(1, 0, 0)
			w.p("VPERMW Z0, Z5, Z0")
		}
	}
	if rows == 1 {
		if acc := 14 + p; half {
			w.dotHalf(2, 0, acc)
		} else {
			w.p("VFMADD231PS Z0, Z2, Z%d\nVFMADD231PS Z1, Z3, Z%d", acc, acc)
		}
		return
	}
	if half {
		for r := range rows {
			w.dotHalfAX(rows*i+r, 0, 14+panels*r+p)
		}
		return
	}
	for z := range 2 {
		for r := range rows {
			w.p("VFMADD231PS.BCST %d(AX), Z%d, Z%d", 4*(rows*(2*i+z)+r), z, 14+panels*r+p)
		}
	}
}

func (w *writer) fewStore(rows, panels int, arg func(string) string) {
	plain := w.label()
	w.p("VBROADCASTSS %s, Z0\nCMPQ %s, $0\nJEQ %s", arg("alpha"), arg("add"), plain)
	for _, add := range []bool{true, false} {
		if !add {
			w.p("%s:", plain)
		}
		for r := range rows {
			for p := range panels {
				acc := 14 + panels*r + p
				if add {
					w.p("VFMADD213PS %d(DI), Z0, K%d, Z%d", 64*p, p+1, acc)
				} else {
					w.p("VMULPS Z0, Z%d, Z%d", acc, acc)
				}
				w.p("VMOVUPS Z%d, K%d, %d(DI)", acc, p+1, 64*p)
			}
			w.p("ADDQ R8, DI")
		}
		w.ret()
	}
}
