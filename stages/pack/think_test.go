package pack

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage/stagetest"
)

// What a chat template makes of thoughts is learned, and said where it leaves them out.
func TestThoughts(t *testing.T) {
	const (
		open  = `{% for m in messages %}<|im_start|>{{ m.role }}{{ '\n' }}`
		shut  = `<|im_end|>{{ '\n' }}{% endfor %}`
		asked = `{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}`
		split = `{% if m.role == 'assistant' and '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}`
		last  = `{% if not loop.last and m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}`
		note  = "the chat template leaves out what is thought in "
	)
	thinking := talk("a", "1", artifact.Think("T", "A"), "2", artifact.Think("T", "B"), "3", "C")
	for _, c := range []struct {
		name, template, turns string
		learned               []string // or the error
		note                  string
	}{
		{"kept", open + `{{ m.content }}` + shut + asked + `{% endif %}`, "", []string{"<think>\nT\n</think>\n\nA<E>", "<think>\nT\n</think>\n\nB<E>", "C<E>"}, ""},
		{"left out", open + split + shut + asked + `{% endif %}`, "", []string{"A<E>", "B<E>", "C<E>"}, note + "2 turns, which are learned without it"},
		{"left out of earlier turns", open + last + shut + asked + `{% endif %}`, "each", []string{"<think>\nT\n</think>\n\nA<E>", "<think>\nT\n</think>\n\nB<E>", "C<E>"}, ""},
		{"begun and left out", open + split + shut + asked + `<think>{{ '\n' }}{% endif %}`, "each", []string{"find the last turn: the chat template asks for a turn of the assistant in other words than it begins it with, \"<think>\\n\" and \"A<|im_end|>\\n\": it begins a thought there"}, ""},
		{"begun and left out", open + split + shut + asked + `<think>{{ '\n' }}{% endif %}`, "", []string{"find turn 1 of the assistant: the chat template asks for a turn of the assistant in other words"}, ""},
		{"asked for none", open + `{{ m.content }}` + shut + asked + `<think></think>{% endif %}`, "each", []string{`it asks for a turn without a thought; leave thoughts out, with reasoning = "drop" in the data block`}, ""},
	} {
		dir := modeltest.Directory(t, true)
		config, err := json.Marshal(map[string]any{"eos_token": "<|im_end|>", "chat_template": c.template})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), config, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		b := stagetest.New(t)
		s := newStage().(*spec)
		s.Input, s.Model, s.SeqLen, s.Turns = stagetest.Dataset(b, thinking), b.Model(dir), 128, c.turns
		r, err := b.Try(context.Background(), Kind, s)
		if err != nil {
			if !strings.Contains(err.Error(), c.learned[0]) {
				t.Errorf("%s: %v; want %s", c.name, err, c.learned)
			}
			continue
		}
		var got []string
		for _, p := range stagetest.Rows[artifact.Packed](r, "dataset") {
			got = append(got, learned(p)...)
		}
		slices.Sort(got)
		slices.Sort(c.learned)
		if !slices.Equal(got, c.learned) {
			t.Errorf("%s: learned %q, want %q", c.name, got, c.learned)
		}
		said := slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, note) })
		if said != (c.note != "") || said && !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, c.note) }) {
			t.Errorf("%s: notes %q", c.name, r.Notes)
		}
	}
}
