package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

const (
	maxTemplate = 4 << 20 // bytes of a chat template
	// adapterConfig is the file that tells an adapter from a passed-on base.
	adapterConfig = "adapter_config.json"
)

// resolve finds the model of a model block. A chat template of the block's own,
// values for its variables, or quantisation, makes it another model.
func (e *engine) resolve(ctx context.Context, n *lang.Node, progress func(done, total int64)) error {
	if e.Resolve == nil {
		return errors.New("nothing was given to find models with")
	}
	var template []byte
	if n.Model.ChatTemplate != "" { // before anything is fetched
		var err error
		if template, err = readTemplate(n, e.CheckTemplate); err != nil {
			return stage.Fieldf("chat_template", "%v", err)
		}
	}
	path, sum, err := e.Resolve(ctx, n.Model.Source, n.Dir, progress)
	if err == nil && n.Checkout != "" && !strings.Contains(n.Model.Source, "://") && !lang.Inside(path, n.Checkout) {
		err = stage.Fieldf("source", "lies outside of what was fetched with the module; make the model a variable of the module")
	}
	if err != nil {
		return e.Store.Advise(err)
	}
	m := stage.ModelPath{Base: path, Root: sum}
	if len(n.Model.TemplateVars) > 0 {
		text, err := e.TemplateWith(path, template, n.Model.TemplateVars)
		if err != nil {
			return stage.Fieldf("template_vars", "%v", err)
		}
		template = []byte(text)
	}
	if template != nil {
		if m.Template, m.Root, err = e.template(template, m.Root); err != nil {
			return stage.Fieldf("chat_template", "%v", err)
		}
	}
	if n.Model.Quantize != "" {
		m.Quantize, m.Root = n.Model.Quantize, quantized(m.Root, n.Model.Quantize)
	}
	e.mu.Lock()
	e.roots[m.Root] = m
	e.mu.Unlock()
	e.made(n.Addr, map[string]artifact.Object{"": {Digest: m.Root, Type: artifact.Model}})
	return nil
}

// weigh checks the weights of a model block that was resolved, if anything
// needs them.
func (e *engine) weigh(n *lang.Node) error {
	if e.CheckWeights == nil || !e.weights[n.Addr] {
		return nil
	}
	e.mu.Lock()
	m := e.roots[e.outputs[n.Addr][""].Digest]
	e.mu.Unlock()
	return usable(n.Model, m.Base, e.CheckWeights)
}

// usable reports which attribute of a model block is why its weights, at path,
// cannot be used.
func usable(m *stage.ModelBlock, path string, check func(path, quantize string) error) error {
	if err := check(path, ""); err != nil {
		return stage.Fieldf("source", "%v", err)
	}
	if m.Quantize == "" {
		return nil
	}
	if err := check(path, m.Quantize); err != nil {
		return stage.Fieldf("quantize", "%v", err)
	}
	return nil
}

// quantized is the digest of a model that is quantised when it is loaded.
func quantized(model artifact.Digest, how string) artifact.Digest {
	h := framer{sha256.New()}
	h.text("pipe model quantised")
	h.bytes(model[:])
	h.text(how)
	return h.sum()
}

// weightUses returns the addresses of the model blocks whose weights the nodes
// read.
func weightUses(nodes []*lang.Node) map[string]bool {
	uses := map[string]bool{}
	for _, n := range nodes {
		for _, in := range n.Inputs {
			if in.Ref.Type != artifact.Model || in.Ref.Output != "" {
				continue
			}
			needs := n.Teacher == nil || n.Teacher.Provider == "local"
			if w, ok := n.Stage.(stage.Weightless); ok {
				needs = w.NeedsWeights(in.Path)
			}
			if needs {
				uses[in.Ref.Addr] = true
			}
		}
	}
	return uses
}

// remote reports whether a model block's source may be on the network.
func remote(n *lang.Node) bool { return strings.HasPrefix(n.Model.Source, "hf://") }

// readTemplate returns the chat template of a model block, which passes check
// if that is not nil.
func readTemplate(n *lang.Node, check func(name, text string) error) ([]byte, error) {
	name := within(n.Dir, n.Model.ChatTemplate)
	if n.Checkout != "" && !lang.Inside(name, n.Checkout) {
		return nil, errors.New("it lies outside of what was fetched with the module")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxTemplate {
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxTemplate>>20)
	}
	if check != nil {
		err = check(name, string(b))
	}
	return b, err
}

// template keeps a copy of a chat template in the store, so that what stages read
// is what the digest is of, and mixes it into the digest of the model.
func (e *engine) template(b []byte, model artifact.Digest) (path string, root artifact.Digest, err error) {
	sum := sha256.Sum256(b)
	kept := "templates/" + hex.EncodeToString(sum[:]) + ".jinja"
	path = filepath.Join(e.Store.Dir(), kept)
	if got, err := os.ReadFile(path); err != nil || sha256.Sum256(got) != sum {
		if err := e.Store.Remember(kept, b); err != nil {
			return "", root, err
		}
	}
	h := framer{sha256.New()}
	h.text("pipe model with template")
	h.bytes(model[:])
	h.bytes(sum[:])
	return path, h.sum(), nil
}

// configure makes a teacher block known; it is configuration only.
func (e *engine) configure(n *lang.Node) error {
	if unknown := e.bind(n); len(unknown) > 0 {
		return fmt.Errorf("%s was not found", unknown[0])
	}
	b, err := json.Marshal(stage.Teacher{Config: n.Teacher})
	if err != nil {
		return err
	}
	e.made(n.Addr, map[string]artifact.Object{"": {Digest: sha256.Sum256(b), Type: artifact.Teacher}})
	return nil
}

// inputs implements stage.Inputs.
type inputs struct{ e *engine }

// Open implements stage.Inputs.
func (in inputs) Open(r artifact.Ref) (*artifact.Artifact, error) {
	if r.Digest.IsZero() {
		return nil, fmt.Errorf("%s has no content", r)
	}
	a, err := in.e.Store.Open(r.Digest)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", r, err)
	}
	if r.Type != "" && a.Type() != r.Type {
		return nil, fmt.Errorf("open %s: it is a %s, not a %s", r, a.Type(), r.Type)
	}
	return a, nil
}

// Model implements stage.Inputs.
func (in inputs) Model(r artifact.Ref) (stage.ModelPath, error) {
	if m, ok := in.root(r.Digest); ok {
		return m, nil
	}
	a, err := in.Open(r)
	if err != nil {
		return stage.ModelPath{}, err
	}
	own, err := in.manifest(a)
	if err != nil {
		return stage.ModelPath{}, fmt.Errorf("open %s: %w", r, err)
	}
	dir, err := a.Dir()
	if err != nil {
		return stage.ModelPath{}, fmt.Errorf("open %s: %w", r, err)
	}
	if own.Base.IsZero() {
		return stage.ModelPath{Base: dir, Root: r.Digest, Training: own.Training}, nil
	}
	m, err := in.base(own.Base)
	if err != nil {
		return stage.ModelPath{}, fmt.Errorf("open %s: %w", r, err)
	}
	if a.Has(adapterConfig) { // else it passes its base on
		m.Adapter = dir
	}
	if len(own.Training) > 0 { // the base's is part of it
		m.Training = own.Training
	}
	return m, nil
}

// root returns the model block of that content.
func (in inputs) root(d artifact.Digest) (stage.ModelPath, bool) {
	in.e.mu.Lock()
	defer in.e.mu.Unlock()
	m, ok := in.e.roots[d]
	return m, ok
}

func (in inputs) manifest(a *artifact.Artifact) (m artifact.ModelManifest, err error) {
	return m, artifact.ReadJSON(a, artifact.ModelFile, &m)
}

// base finds what an adapter was trained over: a model block, or an artifact
// with all weights.
func (in inputs) base(d artifact.Digest) (stage.ModelPath, error) {
	if m, ok := in.root(d); ok {
		return m, nil
	}
	a, err := in.e.Store.Open(d)
	if err != nil {
		return stage.ModelPath{}, fmt.Errorf("its base %v is neither a model block of this pipeline nor in the store: %w", d, err)
	}
	over, err := in.manifest(a)
	if err != nil {
		return stage.ModelPath{}, fmt.Errorf("its base: %w", err)
	}
	if !over.Base.IsZero() {
		return stage.ModelPath{}, fmt.Errorf("its base %v is an adapter itself; a base has all weights", d)
	}
	dir, err := a.Dir()
	return stage.ModelPath{Base: dir, Root: d, Training: over.Training}, err
}
