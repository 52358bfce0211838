package cpu

import "pipe/tensor"

// The arrangements of few.go with their kernels.
var (
	fewQ4_0 = fewFormat{288, false, arrangeNibbles(2), [2][4]fewKernel{
		{few1x64Q4_0, few2x64Q4_0, few4x32Q4_0, few8x16Q4_0},
		{few1x64Q4_0Half, few2x64Q4_0Half, few4x32Q4_0Half, few8x16Q4_0Half}}}
	fewQ4_1 = fewFormat{320, true, arrangeNibbles(4), [2][4]fewKernel{
		{few1x64Q4_1, few2x64Q4_1, few4x32Q4_1, few8x16Q4_1},
		{few1x64Q4_1Half, few2x64Q4_1Half, few4x32Q4_1Half, few8x16Q4_1Half}}}
	fewNF4 = fewFormat{320, false, arrangeNF4, [2][4]fewKernel{
		{few1x64NF4, few2x64NF4, few4x32NF4, few8x16NF4},
		{few1x64NF4Half, few2x64NF4Half, few4x32NF4Half, few8x16NF4Half}}}
	fewQ8_0 = fewFormat{544, false, arrangeQ8_0, [2][4]fewKernel{
		{few1x64Q8_0, few2x64Q8_0, few4x32Q8_0, few8x16Q8_0},
		{few1x64Q8_0Half, few2x64Q8_0Half, few4x32Q8_0Half, few8x16Q8_0Half}}}
	fewBF16 = fewFormat{1024, false, arrangeBF16, [2][4]fewKernel{
		{few1x64BF16, few2x64BF16, few4x32BF16, few8x16BF16},
		{few1x64BF16Half, few2x64BF16Half, few4x32BF16Half, few8x16BF16Half}}}
)

// fewAVX512 returns the arrangement of a type, with kernels for bfloat16 if
// the processor has them; nil: none.
func fewAVX512(dt tensor.DType) *fewFormat {
	switch dt {
	case tensor.Q4_0:
		return &fewQ4_0
	case tensor.Q4_1:
		return &fewQ4_1
	case tensor.NF4:
		return &fewNF4
	case tensor.Q8_0:
		return &fewQ8_0
	case tensor.BF16:
		return &fewBF16
	}
	return nil
}
