package gguf

import (
	"fmt"

	"pipe/tensor"
)

// Value types of metadata.
const (
	typeU8 = iota
	typeI8
	typeU16
	typeI16
	typeU32
	typeI32
	typeF32
	typeBool
	typeString
	typeArray
	typeU64
	typeI64
	typeF64
)

// valueSize is the bytes of a value, or the fewest that one can have.
var valueSize = [...]int{
	typeU8: 1, typeI8: 1, typeU16: 2, typeI16: 2, typeU32: 4, typeI32: 4, typeF32: 4, typeBool: 1,
	typeString: 8, typeArray: 12, typeU64: 8, typeI64: 8, typeF64: 8,
}

// A ggmlType is an element type of the format. All that a file may hold are
// known by size, so that a file can be checked as a whole; those that package
// tensor has can be read.
type ggmlType struct {
	name         string
	block, bytes int
	ours         tensor.DType
	ok           bool // ours is set
}

var ggmlTypes = map[uint32]ggmlType{
	0: {"f32", 1, 4, tensor.F32, true}, 1: {"f16", 1, 2, tensor.F16, true}, 30: {"bf16", 1, 2, tensor.BF16, true},
	2: {"q4_0", 32, 18, tensor.Q4_0, true}, 3: {"q4_1", 32, 20, tensor.Q4_1, true},
	6: {"q5_0", 32, 22, tensor.Q5_0, true}, 7: {"q5_1", 32, 24, tensor.Q5_1, true},
	8: {"q8_0", 32, 34, tensor.Q8_0, true}, 12: {"q4_K", 256, 144, tensor.Q4_K, true},
	13: {"q5_K", 256, 176, tensor.Q5_K, true}, 14: {"q6_K", 256, 210, tensor.Q6_K, true},
	26: {"i32", 1, 4, tensor.I32, true},
	10: {name: "q2_K", block: 256, bytes: 84}, 11: {name: "q3_K", block: 256, bytes: 110},
	16: {name: "iq2_xxs", block: 256, bytes: 66}, 17: {name: "iq2_xs", block: 256, bytes: 74},
	18: {name: "iq3_xxs", block: 256, bytes: 98}, 19: {name: "iq1_s", block: 256, bytes: 50},
	20: {name: "iq4_nl", block: 32, bytes: 18}, 21: {name: "iq3_s", block: 256, bytes: 110},
	22: {name: "iq2_s", block: 256, bytes: 82}, 23: {name: "iq4_xs", block: 256, bytes: 136},
	24: {name: "i8", block: 1, bytes: 1}, 25: {name: "i16", block: 1, bytes: 2},
	27: {name: "i64", block: 1, bytes: 8}, 28: {name: "f64", block: 1, bytes: 8},
	29: {name: "iq1_m", block: 256, bytes: 56}, 34: {name: "tq1_0", block: 256, bytes: 54},
	35: {name: "tq2_0", block: 256, bytes: 66}, 39: {name: "mxfp4", block: 32, bytes: 17},
	40: {name: "nvfp4", block: 64, bytes: 36}, 41: {name: "q1_0", block: 128, bytes: 18},
}

// typeID returns the format's number of one of our types.
func typeID(dt tensor.DType) (uint32, error) {
	for id, t := range ggmlTypes {
		if t.ok && t.ours == dt {
			return id, nil
		}
	}
	return 0, fmt.Errorf("type %s cannot be stored in GGUF", dt)
}
