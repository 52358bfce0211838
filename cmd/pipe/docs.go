package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// pages returns the pages of all commands, stage kinds and other blocks, or
// only those of "commands" or "kinds".
func pages(ctx context.Context, t *app, only string) (list []page) {
	if only != "kinds" {
		for _, c := range commands() {
			list = append(list, commandPage(ctx, t, c))
		}
	}
	if only != "commands" {
		for _, k := range t.kinds {
			list = append(list, kindPage(k))
		}
		for _, b := range blocks() {
			list = append(list, blockPage(b))
		}
	}
	return list
}

func runDocs(ctx context.Context, t *app, args []string) int {
	var dir, only string
	var man bool
	_, _, err := parse(t, "docs", args, func(fs *flag.FlagSet, _ *options) {
		fs.StringVar(&dir, "o", "", "write a file a page below this `DIR`")
		fs.StringVar(&only, "only", "", "`WHAT`: commands or kinds")
		fs.BoolVar(&man, "man", false, "write manual pages for man(1): man1/pipe-COMMAND.1 and man5/pipe-KIND.5")
	})
	switch {
	case err != nil:
		return usageCode(err)
	case only != "" && only != "commands" && only != "kinds":
		t.errorf("--only %s: use commands or kinds", only)
		return exitUsage
	case man && dir == "":
		t.errorf("--man writes several files; name their directory with -o DIR")
		return exitUsage
	}
	list := pages(ctx, t, only)
	if dir == "" {
		t.out.Write(reference(list))
		return exitOK
	}
	for _, p := range list {
		path, text := filepath.Join(dir, p.fileName(man)), new(bytes.Buffer)
		if man {
			p.writeMan(text)
		} else {
			p.writeMarkdown(text, 1)
		}
		if err := writeWhole(path, text.Bytes()); err != nil {
			t.errorf("%v", err)
			return exitFailed
		}
	}
	fmt.Fprintf(t.out, "%s lie in %s\n", counted(int64(len(list)), "page"), clean(dir))
	return exitOK
}

// fileName is where the page lies below the directory of all.
func (p *page) fileName(man bool) string {
	if man {
		return fmt.Sprintf("man%d/%s.%d", p.section, p.manName(), p.section)
	}
	if p.section == 1 {
		return "pipe-" + p.name + ".md"
	}
	return p.name + ".md"
}

// reference is one Markdown document of pages.
func reference(list []page) []byte {
	var b bytes.Buffer
	b.WriteString("# Reference\n\nWritten by `pipe docs` from the program; do not edit.\n\n")
	for _, p := range list {
		fmt.Fprintf(&b, "* [%s](#%s): %s\n", p.title(), anchor(p.title()+": "+p.about), p.about)
	}
	for _, p := range list {
		b.WriteByte('\n')
		p.writeMarkdown(&b, 2)
	}
	return b.Bytes()
}

// writeWhole makes a file with its directories, or replaces it.
func writeWhole(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o666)
}
