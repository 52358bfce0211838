package main

import (
	"context"
	"flag"

	"pipe/runtime/engine"
)

func runExplain(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "explain", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.json, "json", false, "print one JSON object a stage")
	})
	if err != nil {
		return usageCode(err)
	}
	p, code := makePlan(ctx, t, o, pos[1])
	if p == nil {
		return code
	}
	addrs := p.prog.Addrs(pos[0])
	if len(addrs) == 0 {
		addrs = []string{pos[0]}
	}
	for _, addr := range addrs {
		if _, ok := p.step(t, addr); !ok {
			return exitUsage
		}
		why, err := engine.Explain(ctx, p.prog, p.options, addr)
		switch {
		case why == nil:
			t.errorf("%v", err)
			return exitFailed
		case o.json:
			jsonLines(t.out).Encode(struct {
				Type string `json:"type"`
				*engine.Why
			}{"explain", why})
		default:
			why.Write(t.out, clean)
		}
	}
	return exitOK
}
