// Package stages lists the stages that pipe knows.
package stages

import (
	"pipe/runtime/stage"
	"pipe/stages/data"
	"pipe/stages/dedup"
	"pipe/stages/dpo"
	"pipe/stages/eval"
	"pipe/stages/exec"
	"pipe/stages/export"
	"pipe/stages/mix"
	"pipe/stages/pack"
	selector "pipe/stages/select"
	"pipe/stages/sft"
	"pipe/stages/synth"
)

// All is every kind of stage, in the order pipe help prints them. Adding a
// stage is adding its folder and its line here.
var All = []stage.Kind{
	data.Kind,
	synth.Kind,
	dedup.Kind,
	mix.Kind,
	pack.Kind,
	sft.Kind,
	dpo.Kind,
	eval.Kind,
	selector.Kind,
	export.Kind,
	exec.Kind,
}
