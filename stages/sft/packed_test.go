package sft

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
	"pipe/tensor/cpu"
)

// packedWith stores rows as pack does with the model at base.
func packedWith(t *testing.T, b *stagetest.Bench, base string, talk bool, rows []artifact.Packed) stage.PackedDataset {
	t.Helper()
	return packedSaying(t, b, base, talk, rows, func(*artifact.PackedManifest) {})
}

// packedSaying is packedWith with another manifest.
func packedSaying(t *testing.T, b *stagetest.Bench, base string, talk bool, rows []artifact.Packed, edit func(*artifact.PackedManifest)) stage.PackedDataset {
	t.Helper()
	m, err := pretrained.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	w, err := b.Store.Create(artifact.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	f := artifact.PackedManifest{Tokens: m.Tokenizer.Spelling(func(yield func([]int32) bool) {
		for _, r := range rows {
			yield(r.IDs)
		}
	})}
	if talk {
		sum := artifact.Digest(sha256.Sum256([]byte(m.TemplateSource)))
		f.Template = &sum
		if sum, ok := m.TurnTokens(); ok {
			turns := artifact.Digest(sum)
			f.Turns = &turns
		}
	}
	edit(&f)
	if err := errors.Join(artifact.Append(w, rows...), w.WriteJSON(artifact.PackedFile, f)); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return stage.PackedDataset{Ref: artifact.Ref{Type: artifact.Dataset, Addr: "pack.rows", Output: "dataset", Digest: o.Digest}}
}

// changed is the model of modeltest.Directory with another file.
func changed(t *testing.T, name string, weights bool, edit func(content string) string) string {
	t.Helper()
	dir := modeltest.Directory(t, weights)
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if edit(string(b)) == string(b) {
		t.Fatal("nothing was changed")
	}
	if err := os.WriteFile(path, []byte(edit(string(b))), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// swap exchanges the ids of two tokens in a tokenizer.json.
func swap(a, b string) func(string) string {
	return func(content string) string {
		var t map[string]any
		if err := json.Unmarshal([]byte(content), &t); err != nil {
			return content
		}
		vocab := t["model"].(map[string]any)["vocab"].(map[string]any)
		vocab[a], vocab[b] = vocab[b], vocab[a]
		out, err := json.Marshal(t)
		if err != nil {
			return content
		}
		return string(out)
	}
}

// TestPackedForAnotherModel: rows are refused when their ids are other tokens to
// the base, before weights are loaded: the bench has no backend to load them on.
func TestPackedForAnotherModel(t *testing.T) {
	for _, init := range []string{"", "random"} {
		for _, field := range []string{"data", "eval_data"} {
			b := stagetest.New(t)
			s := block(func(s *spec) { s.Init = init })
			if init != "" {
				s.Adapter.Type = "none"
			}
			base := modeltest.Directory(t, init == "")
			s.Base = b.Model(base)
			s.Data = packedWith(t, b, base, true, packedRows(6))
			other := packedWith(t, b, changed(t, "tokenizer.json", false, swap("a", "b")), true, packedRows(6))
			if field == "data" {
				s.Data = other
			} else {
				s.EvalData = &other
			}
			_, err := b.Try(context.Background(), Kind, s)
			var fe *stage.FieldError
			if !errors.As(err, &fe) || fe.Field != field || !strings.Contains(fe.Problem, "pack.rows.dataset was packed with another tokenizer than that of model.test") || !strings.Contains(fe.Problem, "set model = model.test in its pack stage") {
				t.Errorf("init %q, %s: %v", init, field, err)
			}
		}
	}
}

// TestMarksAreOtherTokens: rows in which the marks of the same chat template are
// text are refused, though each of their ids is the same token to both models; what
// was packed before that was noted is not.
func TestMarksAreOtherTokens(t *testing.T) {
	b := stagetest.New(t)
	backend := cpu.New(1)
	defer backend.Close()
	b.Backend = backend
	base := modeltest.Directory(t, true)
	text := changed(t, "tokenizer.json", false, func(s string) string { return strings.ReplaceAll(s, "im_start", "reserved") })
	s := block(func(s *spec) { s.MaxSteps = 1 })
	s.Base, s.Data = b.Model(base), packedWith(t, b, text, true, packedRows(6))
	_, err := b.Try(context.Background(), Kind, s)
	var fe *stage.FieldError
	if !errors.As(err, &fe) || fe.Field != "data" || !strings.Contains(fe.Problem, "with the chat template of model.test and another tokenizer, to which what the template writes around the turns") || !strings.Contains(fe.Problem, "set model = model.test in its pack stage") {
		t.Errorf("%v", err)
	}
	s.Data = packedSaying(t, b, text, true, packedRows(6), func(f *artifact.PackedManifest) { f.Turns = nil })
	if _, err := b.Try(context.Background(), Kind, s); err != nil {
		t.Errorf("from before: %v", err)
	}
}

// TestPackedForThisModel: rows are taken from a tokenizer that differs where
// they have no token, and from before it was noted; another chat template is
// noted where there was a conversation.
func TestPackedForThisModel(t *testing.T) {
	base := modeltest.Directory(t, true)
	template := changed(t, "tokenizer_config.json", false, func(s string) string { return strings.Replace(s, "assistant", "helper", 1) })
	for _, c := range []struct {
		name  string
		base  string
		data  func(b *stagetest.Bench) stage.PackedDataset
		notes bool
	}{
		{"the same model", base, func(b *stagetest.Bench) stage.PackedDataset { return packedWith(t, b, base, true, packedRows(6)) }, false},
		{"other tokens, which do not occur", base, func(b *stagetest.Bench) stage.PackedDataset {
			return packedWith(t, b, changed(t, "tokenizer.json", false, swap("~", "}")), true, packedRows(6))
		}, false},
		{"from before", base, func(b *stagetest.Bench) stage.PackedDataset {
			return stage.PackedDataset(stagetest.Dataset(b, packedRows(6)...))
		}, false},
		{"documents", base, func(b *stagetest.Bench) stage.PackedDataset { return packedWith(t, b, template, false, packedRows(6)) }, false},
		{"another template", base, func(b *stagetest.Bench) stage.PackedDataset { return packedWith(t, b, template, true, packedRows(6)) }, true},
		{"no template", changed(t, "tokenizer_config.json", true, func(s string) string { return strings.Replace(s, `"chat_template"`, `"other"`, 1) }),
			func(b *stagetest.Bench) stage.PackedDataset { return packedWith(t, b, base, true, packedRows(6)) }, true},
	} {
		b := stagetest.New(t)
		backend := cpu.New(1)
		defer backend.Close()
		b.Backend = backend
		s := block(func(s *spec) { s.MaxSteps = 1 })
		s.Base, s.Data = b.Model(c.base), c.data(b)
		r, err := b.Try(context.Background(), Kind, s)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "chat template") }); got != c.notes {
			t.Errorf("%s: %s", c.name, fmt.Sprint(r.Notes))
		}
	}
}

// TestRowsOfAnotherKind: rows that were not packed, which no file can tell of every
// stage, are refused with what to write.
func TestRowsOfAnotherKind(t *testing.T) {
	b := stagetest.New(t)
	s := block(func(*spec) {})
	s.Base = b.Model(modeltest.Directory(t, true))
	s.Data = stage.PackedDataset(stagetest.Dataset(b, artifact.Row{ID: "a", Text: "x"}))
	_, err := b.Try(context.Background(), Kind, s)
	var fe *stage.FieldError
	if !errors.As(err, &fe) || fe.Field != "data" || fe.Problem != `data.test is a dataset of plain rows, and packed ones are trained on: write pack "NAME" { input = data.test ... }, and here pack.NAME.dataset` {
		t.Errorf("%v", err)
	}
}

// TestTurnsOfOneConversation: rows that hold turns of one conversation are not rows of
// different documents, where what packed them says so.
func TestTurnsOfOneConversation(t *testing.T) {
	b := stagetest.New(t)
	backend := cpu.New(1)
	defer backend.Close()
	b.Backend = backend
	base := modeltest.Directory(t, true)
	rows := packedRows(4)
	for i := range rows {
		for k := range rows[i].Rows {
			rows[i].Rows[k] = "talk"
		}
	}
	for _, each := range []bool{false, true} {
		s := block(func(s *spec) { s.MaxSteps = 1 })
		s.Base, s.Data = b.Model(base), packedSaying(t, b, base, true, rows, func(f *artifact.PackedManifest) { f.Each = each })
		r, err := b.Try(context.Background(), Kind, s)
		if err != nil {
			t.Fatal(err)
		}
		if nothing := strings.Contains(strings.Join(r.Notes, "\n"), "nothing is held out"); nothing != each {
			t.Errorf("turns of their own %t: notes %q", each, r.Notes)
		}
	}
}
