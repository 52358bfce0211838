package engine

import (
	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// demands returns, by the address of a model block, the stages that cannot do their
// work with every model and are given one that was made from that block.
func demands(nodes []*lang.Node, node func(addr string) *lang.Node) map[string][]*lang.Node {
	by := map[string][]*lang.Node{}
	for _, n := range nodes {
		if _, ok := n.Stage.(stage.Demanding); !ok {
			continue
		}
		seen := map[string]bool{}
		var follow func(at *lang.Node)
		follow = func(at *lang.Node) {
			for _, in := range at.Inputs {
				if in.Ref.Type != artifact.Model || seen[in.Ref.Addr] {
					continue
				}
				seen[in.Ref.Addr] = true
				if in.Ref.Output == "" {
					by[in.Ref.Addr] = append(by[in.Ref.Addr], n)
				} else if maker := node(in.Ref.Addr); maker != nil {
					follow(maker)
				}
			}
		}
		follow(n)
	}
	return by
}

// suits asks the stages that models made from a block reach, which was resolved,
// whether they can do their work with it: before the work that leads there.
func (e *engine) suits(n *lang.Node) error {
	e.mu.Lock()
	m := e.roots[e.outputs[n.Addr][""].Digest]
	e.mu.Unlock()
	for _, user := range e.demands[n.Addr] {
		if err := user.Stage.(stage.Demanding).Takes(m); err != nil {
			return newStageError(user, err)
		}
	}
	return nil
}
