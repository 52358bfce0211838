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

// TestTeacherExtraBody: it is part of a teacher's key, and may not set what pipe relies on.
func TestTeacherExtraBody(t *testing.T) {
	teacher := func(provider, body string) *TeacherConfig {
		c := NewTeacherConfig()
		c.Provider, c.ModelID, c.Endpoint, c.Journal = provider, "m", "http://h", "j"
		c.Model = &Model{Ref: artifact.Ref{Type: artifact.Model}}
		if err := json.Unmarshal([]byte(body), &c.ExtraBody); err != nil {
			t.Fatal(err)
		}
		return c
	}
	key := func(body string) string {
		b, err := json.Marshal(Teacher{Config: teacher("openai", body)})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if key(`{}`) != key(`null`) || key(`{"reasoning_effort":"low"}`) == key(`{}`) || key(`{"reasoning_effort":"low"}`) == key(`{"reasoning_effort":"high"}`) {
		t.Errorf("keys %s, %s, %s", key(`null`), key(`{}`), key(`{"reasoning_effort":"low"}`))
	}
	for _, c := range []struct {
		provider, body string
		wrong          bool
	}{
		{"openai", `{"reasoning_effort":"low"}`, false}, {"journal", `{"reasoning_effort":"low"}`, false}, {"local", `{"reasoning_effort":"low"}`, true},
		{"openai", `{"stream":true}`, true}, {"openai", `{"n":2}`, true}, {"openai", `{"messages":null}`, true},
		{"openai", `{"max_tokens":null,"max_completion_tokens":512}`, false}, {"openai", `{"max_tokens":null,"max_completion_tokens":4096}`, true},
	} {
		var f *FieldError
		err := teacher(c.provider, c.body).Check()
		if wrong := errors.As(err, &f); wrong != c.wrong || wrong && f.Field != "extra_body" {
			t.Errorf("%s with %s: %v", c.provider, c.body, err)
		}
	}
}
