package answer

import "testing"

func TestNormalize(t *testing.T) {
	for _, c := range []struct{ how, in, want string }{
		{"text", "The licence's a  Text!", "licences text"},
		{"number", "It costs $1,234.50, or 7", "7"},
		{"number", "$1,234.50", "1234.5"},
		{"number", "none", ""},
		{"exact", " As Is. ", "As Is."},
	} {
		if got := Normalize(c.how, c.in); got != c.want {
			t.Errorf("%s of %q: %q, want %q", c.how, c.in, got, c.want)
		}
	}
	if !Contains("oh yes sir", "yes") || Contains("yesterday", "yes") || Contains("x", "") {
		t.Error("what is contained is not")
	}
}
