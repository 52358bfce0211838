package stage

import (
	"encoding/json"
	"errors"
	"testing"

	"pipe/runtime/artifact"
)

// TestTeacherPrecision: it is part of a teacher's key unless it is the default,
// and an error where no model of this process answers.
func TestTeacherPrecision(t *testing.T) {
	teacher := func(provider, precision string) *TeacherConfig {
		c := NewTeacherConfig()
		c.Provider, c.Precision, c.ModelID, c.Endpoint, c.Journal = provider, precision, "m", "http://h", "j"
		c.Model = &Model{Ref: artifact.Ref{Type: artifact.Model}}
		return c
	}
	key := func(precision string) string {
		b, err := json.Marshal(Teacher{Config: teacher("local", precision)})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if key("") != key("f32") || key("bf16") == key("") || key("fp8") == key("") || key("fp8") == key("bf16") {
		t.Errorf("keys %s, %s, %s, %s", key(""), key("f32"), key("bf16"), key("fp8"))
	}
	for _, c := range []struct {
		provider, precision string
		wrong               bool
	}{
		{"local", "", false}, {"local", "f32", false}, {"local", "bf16", false}, {"local", "fp8", false}, {"local", "fp4", true},
		{"journal", "bf16", false}, {"journal", "fp4", true},
		{"openai", "", false}, {"openai", "f32", true}, {"openai", "bf16", true},
	} {
		var f *FieldError
		err := teacher(c.provider, c.precision).Check()
		if wrong := errors.As(err, &f); wrong != c.wrong || wrong && f.Field != "precision" {
			t.Errorf("%s with %q: %v", c.provider, c.precision, err)
		}
	}
}
