package tensor

// Precisions are the names of the types that [Memory].Precision takes, the
// default first.
func Precisions() []string { return []string{F32.String(), BF16.String()} }

// Precision returns the type of one of these names; of another it is F32.
func Precision(name string) DType {
	if name == BF16.String() {
		return BF16
	}
	return F32
}
