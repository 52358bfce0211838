// Package lang reads pipeline files: HCL blocks become a graph of decoded
// stages. It touches no artifact and no network, so that a file is judged as a
// whole before anything runs.
//
// Three conventions hold throughout. References evaluate to known, typed
// handles, never to unknown values. Every error is an [hcl.Diagnostic] with a
// range, and all independent errors are reported at once. Formatting, comments,
// and the order of attributes, blocks and files never change what is decoded.
package lang

import (
	"maps"
	"slices"
	"time"

	"github.com/dominikbraun/graph"
	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// Options are the values given from outside the pipeline file.
type Options struct {
	Vars     map[string]string                // --var NAME=VALUE
	VarFiles []string                         // --var-file; a later file wins over an earlier one
	Env      func(name string) (string, bool) // looks up PIPE_VAR_NAME and env(); nil means an empty environment

	// Module returns where a module that is not a directory beside the
	// pipeline lies, by its source such as git::https://host/repo.git//dir?ref=v1:
	// its directory, and the directory of what was fetched with it, which nothing
	// in the module may lead out of. nil knows no such modules.
	Module func(source string) (dir, checkout string, err error)
}

// A Program is a loaded pipeline: every stage decoded, every sweep expanded.
type Program struct {
	Name        string // label of the pipeline block, else the file's or directory's base name
	Description string
	Seed        uint64
	BudgetTime  time.Duration // longest time of one run; 0: none
	Dir         string        // directory of the pipeline file; relative paths in it resolve against Dir
	Nodes       []*Node
	Modules     []ModuleCall         // in the order of the files; those inside a module follow it
	Files       map[string]*hcl.File // for WriteDiagnostics
	ValueFiles  []string             // those of Files that hold values of variables, secret ones perhaps
	Reads       []string             // files that file and templatefile read, sorted
	Watched     []string             // files and directories that decided what was loaded, also those looked for and missing
	// Given are the values that variables got from outside, as expressions of
	// HCL by name; Withheld are the names of sensitive ones among them.
	Given     map[string]string
	Withheld  []string
	Graph     graph.Graph[string, string]
	Sensitive bool // a variable is sensitive

	byAddr map[string]*Node
}

// Node returns the node with that address, or nil.
func (p *Program) Node(addr string) *Node { return p.byAddr[addr] }

// Addrs returns the addresses of all nodes of the block named so: the address
// itself when it is a node, the instances when it is a swept block, otherwise none.
func (p *Program) Addrs(addr string) []string {
	if p.byAddr[addr] != nil {
		return []string{addr}
	}
	var out []string
	for _, n := range p.Nodes {
		if n.Block == addr {
			out = append(out, n.Addr)
		}
	}
	return out
}

// A ModuleCall is one module block.
type ModuleCall struct {
	Addr     string // "module.prep", "module.prep.module.inner"
	Source   string // as it is written
	Dir      string // of its files
	Checkout string // what was fetched with it; empty for a directory beside the pipeline
}

// A Node is one block, or one instance of a swept block.
type Node struct {
	Addr  string // `sft.legal["rank=8"]`, "data.docs", "module.prep.dedup.clean"
	Block string // "sft.legal": Addr without the key
	Type  string // block type: "sft", "data", "model", "teacher"
	Name  string // block label: "legal"
	Key   string // key of the sweep; empty without for_each
	Swept bool   // the block has for_each
	Dir   string // of the pipeline, or of the module that the block stands in: relative paths to read resolve against it
	// Checkout is what nothing that the block reads may lie outside of, if it
	// stands in a module that was fetched.
	Checkout string

	// Kind and Stage are nil for model and teacher blocks, which have Model or
	// Teacher instead. Handles to a teacher block share the Teacher pointer.
	Kind    *stage.Kind
	Stage   stage.Stage
	Model   *stage.ModelBlock
	Teacher *stage.TeacherConfig
	// Journal is the journal of a teacher block as its attribute names it; that of
	// Teacher may be placed, for stages that stand in other directories.
	Journal string

	Inputs  []Input                 // every handle in the spec, in the order of the struct's fields
	Needs   []string                // nodes that must be done before this one, sorted; includes depends_on
	Outputs map[string]artifact.Ref // by output name; aliases are resolved to what they pass on
	Makes   []stage.Output          // what the block can be referred to as: its Kind's, unless its spec says more
	Gates   []stage.Gate

	// Blocks that may stand in any stage and never reach a key; nil if absent.
	Resources  *Resources
	Checkpoint *Checkpoint
	Retry      *Retry

	// Header is the range of the block's header, such as: sft "legal".
	Header hcl.Range
	ranges map[string]hcl.Range
	wrote  map[string]bool // paths of attributes and labels that stand in the file
}

// OutputNames returns the names of n's outputs, sorted.
func (n *Node) OutputNames() []string { return slices.Sorted(maps.Keys(n.Outputs)) }

// An Input is one handle in a node's spec.
type Input struct {
	Path string // "decontaminate.against[0]"
	// Ref points into the spec: setting its Digest completes the spec.
	Ref   *artifact.Ref
	Range hcl.Range
}

// Resources says what a stage asks of an executor.
type Resources struct {
	GPUs      int    `hcl:"gpus,optional" doc:"GPUs to reserve"`
	CPUs      int    `hcl:"cpus,optional" doc:"CPU cores to reserve; 0 leaves it to the executor"`
	Memory    string `hcl:"memory,optional" doc:"Memory to reserve, such as 16GiB"`
	Time      string `hcl:"time,optional" doc:"Longest run, such as 4h"`
	Partition string `hcl:"partition,optional" doc:"Queue of the cluster"`
}

// Checkpoint says how often a long stage saves its state.
type Checkpoint struct {
	Every          int `hcl:"every,optional" doc:"Steps between checkpoints; 0 leaves it to the stage"`
	SaveTotalLimit int `hcl:"save_total_limit,optional" doc:"How many checkpoints to keep; 0 leaves it to the stage"`
}

// Retry says what happens when a stage fails.
type Retry struct {
	Attempts int    `hcl:"attempts,optional" doc:"How often a failed stage is started again"`
	Delay    string `hcl:"delay,optional" doc:"Wait before the next attempt, such as 30s"`
}

// Range returns where the attribute or block at path stands, such as "rank",
// "adapter.rank", "suite[1].data" or `suite["license_qa"].data`. If path was
// not written in the file it is where its closest parent stands, in the end
// the block's header.
func (n *Node) Range(path string) hcl.Range {
	for ; path != ""; path = parentPath(path) {
		if r, ok := n.ranges[path]; ok {
			return r
		}
	}
	return n.Header
}

// Written returns the paths of the attributes and labels that stand in the
// file, sorted; all others have their defaults.
func (n *Node) Written() []string { return slices.Sorted(maps.Keys(n.wrote)) }

func (n *Node) write(path string) {
	if n.wrote == nil {
		n.wrote = map[string]bool{}
	}
	n.wrote[path] = true
}

// ParentPath drops the last step of a path: "a.b[0]" gives "a.b", which gives
// "a", which gives "".
func ParentPath(path string) string { return parentPath(path) }

// parentPath drops the last step of a path: "a.b[0]" gives "a.b", which gives "a".
func parentPath(path string) string {
	quoted := false
	for i := len(path) - 1; i >= 0; i-- {
		switch path[i] {
		case '"':
			quoted = !quoted
		case '.', '[':
			if !quoted {
				return path[:i]
			}
		}
	}
	return ""
}
