package tensor

// Precisions are the names of the types that [Memory].Precision takes, the
// default first.
func Precisions() []string { return []string{F32.String(), BF16.String(), FP8.String()} }

// Precision returns the type of one of these names; of another it is F32.
func Precision(name string) DType {
	for _, dt := range []DType{BF16, FP8} {
		if name == dt.String() {
			return dt
		}
	}
	return F32
}

// PrecisionMark returns what tells the name of a model that computes in that
// precision from its name in F32, which has none: "+bf16".
func PrecisionMark(name string) string {
	if dt := Precision(name); dt != F32 {
		return "+" + dt.String()
	}
	return ""
}

// A Choosy backend does not have every precision.
type Choosy interface {
	// HasPrecision returns nil if products can be formed so, else why not, for people.
	HasPrecision(dt DType) error
}

// HasPrecision returns an error unless b forms products in that precision.
func HasPrecision(b Backend, dt DType) error {
	if c, ok := b.(Choosy); ok {
		return c.HasPrecision(dt)
	}
	return nil
}
