package tokenizer

// unicode16 holds the classes of the characters that Unicode 16 has over
// Unicode 15, that of Go 1.26: the Hugging Face library's patterns know them.
// With a Go release that knows them too the list changes nothing.
var unicode16 = [...]struct {
	lo, hi rune
	bits   uint8
}{
	{0x0897, 0x0897, upper | lower | word},
	{0x1C89, 0x1C89, letter | upper | word},
	{0x1C8A, 0x1C8A, letter | lower | word},
	{0xA7CB, 0xA7CC, letter | upper | word},
	{0xA7CD, 0xA7CD, letter | lower | word},
	{0xA7DA, 0xA7DA, letter | upper | word},
	{0xA7DB, 0xA7DB, letter | lower | word},
	{0xA7DC, 0xA7DC, letter | upper | word},
	{0x105C0, 0x105F3, letter | upper | lower | word},
	{0x10D40, 0x10D49, number | word},
	{0x10D4A, 0x10D4F, letter | upper | lower | word},
	{0x10D50, 0x10D65, letter | upper | word},
	{0x10D69, 0x10D6D, upper | lower | word},
	{0x10D6F, 0x10D6F, letter | upper | lower | word},
	{0x10D70, 0x10D85, letter | lower | word},
	{0x10EC2, 0x10EC4, letter | upper | lower | word},
	{0x10EFC, 0x10EFC, upper | lower | word},
	{0x11380, 0x11389, letter | upper | lower | word},
	{0x1138B, 0x1138B, letter | upper | lower | word},
	{0x1138E, 0x1138E, letter | upper | lower | word},
	{0x11390, 0x113B5, letter | upper | lower | word},
	{0x113B7, 0x113B7, letter | upper | lower | word},
	{0x113B8, 0x113C0, upper | lower | word},
	{0x113C2, 0x113C2, upper | lower | word},
	{0x113C5, 0x113C5, upper | lower | word},
	{0x113C7, 0x113CA, upper | lower | word},
	{0x113CC, 0x113D0, upper | lower | word},
	{0x113D1, 0x113D1, letter | upper | lower | word},
	{0x113D2, 0x113D2, upper | lower | word},
	{0x113D3, 0x113D3, letter | upper | lower | word},
	{0x113E1, 0x113E2, upper | lower | word},
	{0x116D0, 0x116E3, number | word},
	{0x11BC0, 0x11BE0, letter | upper | lower | word},
	{0x11BF0, 0x11BF9, number | word},
	{0x11F5A, 0x11F5A, upper | lower | word},
	{0x13460, 0x143FA, letter | upper | lower | word},
	{0x16100, 0x1611D, letter | upper | lower | word},
	{0x1611E, 0x1612F, upper | lower | word},
	{0x16130, 0x16139, number | word},
	{0x16D40, 0x16D6C, letter | upper | lower | word},
	{0x16D70, 0x16D79, number | word},
	{0x18CFF, 0x18CFF, letter | upper | lower | word},
	{0x1CCF0, 0x1CCF9, number | word},
	{0x1E5D0, 0x1E5ED, letter | upper | lower | word},
	{0x1E5EE, 0x1E5EF, upper | lower | word},
	{0x1E5F0, 0x1E5F0, letter | upper | lower | word},
	{0x1E5F1, 0x1E5FA, number | word},
	{0x2EBF0, 0x2EE5D, letter | upper | lower | word},
}

// digits17 holds the numeric characters that only the library's Digits step
// knows, whose tables are those of Unicode 17.
var digits17 = [...][2]rune{{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}}
