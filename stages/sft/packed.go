package sft

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"pipe/model"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/train"
)

// packedFor refuses rows in whose tokens the student would read something else
// than what was packed, and rows in which its own chat template is written in
// other tokens than it would write it in. It notes another chat template, which may
// be meant. Rows that do not say what they were packed with are taken as they are.
func (s *spec) packedFor(env *stage.Env, student *train.Student, paths stage.ModelPath, d stage.PackedDataset, field string, rows []model.Batch) error {
	was, err := manifest(env, d)
	if was == nil {
		return err
	}
	m := student.Base
	if m == nil {
		if m, err = textOf(paths); m == nil {
			return err
		}
		defer m.Close()
	}
	is := m.Tokenizer.Spelling(func(yield func([]int32) bool) {
		for i := range rows {
			if !yield(rows[i].IDs) {
				return
			}
		}
	})
	if is != was.Tokens {
		return stage.Fieldf(field, "%s was packed with another tokenizer than that of %s, to which its tokens stand for other text; set model = %s in its pack stage", d, s.Base, s.Base)
	}
	switch {
	case was.Template == nil:
	case m.TemplateSource == "":
		env.Note("%s was packed with a chat template, and %s has none: whoever asks the tuned model does not know in which form it learned; set chat_template in its model block", d, s.Base)
	case sha256.Sum256([]byte(m.TemplateSource)) != *was.Template:
		env.Note("%s was packed with another chat template than that of %s: whoever asks the tuned model does so in another form than it learned; give both the same chat_template, unless that is meant", d, s.Base)
	case was.Turns != nil:
		if turns, ok := m.TurnTokens(); !ok || turns != *was.Turns {
			return stage.Fieldf(field, "%s was packed with the chat template of %s and another tokenizer, to which what the template writes around the turns, such as the marks where they begin and end, is other tokens: the tuned model would be asked in tokens that it did not learn; set model = %s in its pack stage", d, s.Base, s.Base)
		}
	}
	return nil
}

// manifest returns what rows say that they were packed with; nil when they do not.
func manifest(env *stage.Env, d stage.PackedDataset) (*artifact.PackedManifest, error) {
	a, err := env.Store.Open(d.Ref)
	if err != nil || !a.Has(artifact.PackedFile) {
		return nil, err
	}
	var m artifact.PackedManifest
	if err := artifact.ReadJSON(a, artifact.PackedFile, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// conversations returns, by packed row, of which conversation each document is a turn;
// nil when documents stand alone.
func conversations(env *stage.Env, d stage.PackedDataset) (of [][]string, err error) {
	m, err := manifest(env, d)
	if m == nil || !m.Each {
		return nil, err
	}
	a, err := env.Store.Open(d.Ref)
	if err != nil {
		return nil, err
	}
	for r, err := range artifact.Rows[artifact.Packed](a) {
		if err != nil {
			return nil, err
		}
		of = append(of, r.Rows)
	}
	return of, nil
}

// textOf opens the tokenizer and chat template of a model whose weights are not
// read; nil when it has no tokenizer, which new weights can do without.
func textOf(paths stage.ModelPath) (*pretrained.Model, error) {
	if _, err := os.Stat(filepath.Join(paths.Base, "tokenizer.json")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return pretrained.Open(paths.Base, pretrained.WithTemplate(paths.Template))
}
