package tokenizer

import "unicode/utf8"

// The byte alphabet of byte-level BPE (GPT-2): printable bytes stand for
// themselves, the other 68 for U+0100, U+0101, ... in increasing order.

// byteRune returns the character that stands for b.
func byteRune(b byte) rune {
	switch {
	case b >= 0x21 && b <= 0x7E, b >= 0xA1 && b <= 0xAC, b >= 0xAE:
		return rune(b)
	case b <= 0x20:
		return 0x100 + rune(b)
	case b <= 0xA0: // 0x7F..0xA0 follow the 33 bytes below
		return 0x100 + 33 + rune(b-0x7F)
	}
	return 0x100 + 67 // 0xAD
}

// runeByte is the inverse of byteRune.
func runeByte(r rune) (byte, bool) {
	switch {
	case r >= 0x21 && r <= 0x7E, r >= 0xA1 && r <= 0xAC, r >= 0xAE && r <= 0xFF:
		return byte(r), true
	case r >= 0x100 && r <= 0x120:
		return byte(r - 0x100), true
	case r > 0x120 && r < 0x100+67:
		return byte(r - 0x100 - 33 + 0x7F), true
	case r == 0x100+67:
		return 0xAD, true
	}
	return 0, false
}

// fromAlphabet returns the bytes that token stands for; false when a character
// of it is not in the alphabet.
func fromAlphabet(token string) (string, bool) {
	b := make([]byte, 0, len(token))
	for i, r := range token {
		c, ok := runeByte(r)
		if !ok || r == utf8.RuneError && token[i] != 0xEF {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}
