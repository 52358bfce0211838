package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

// writeText writes the page to a terminal of some width.
func (p *page) writeText(w io.Writer, ink ink, width int) {
	width = min(max(width, 40), 100)
	head := func(s string) { fmt.Fprintf(w, "%s\n", ink.paint(bold, s)) }
	head("NAME")
	fmt.Fprintf(w, "    %s - %s\n", p.title(), p.about)
	for _, part := range p.parts {
		fmt.Fprintln(w)
		head(part.title)
		for line := range strings.SplitSeq(part.body, "\n") {
			switch {
			case part.body == "" || strings.HasPrefix(line, "```"):
			case line == "":
				fmt.Fprintln(w)
			case strings.HasPrefix(line, "#"):
				fmt.Fprintf(w, "  %s\n", ink.paint(bold, strings.TrimLeft(line, "# ")))
			default:
				fmt.Fprintf(w, "    %s\n", line)
			}
		}
		if part.body != "" && len(part.items) > 0 {
			fmt.Fprintln(w)
		}
		writeItems(w, part.items, "    ", width)
	}
}

func writeItems(w io.Writer, items []item, indent string, width int) {
	for _, it := range items {
		fmt.Fprintf(w, "%s%s\n", indent, it.name)
		if it.doc != "" {
			for _, line := range wrap(it.doc, width-len(indent)-4) {
				fmt.Fprintf(w, "%s    %s\n", indent, line)
			}
		}
		writeItems(w, it.items, indent+"    ", width)
	}
}

// wrap breaks text into lines of at most width characters, where words allow.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	return append(lines, line)
}

// title is what people type: a command with the program's name before it.
func (p *page) title() string {
	if p.section == 1 {
		return "pipe " + p.name
	}
	return p.name
}

// writeMarkdown writes the page as a section of a document: level 1 is a
// document of its own.
func (p *page) writeMarkdown(w io.Writer, level int) {
	mark := strings.Repeat("#", level)
	fmt.Fprintf(w, "%s %s: %s\n", mark, p.title(), p.about)
	for _, part := range p.parts {
		fmt.Fprintf(w, "\n%s# %s\n", mark, sentenceCase(part.title))
		if part.body != "" {
			fmt.Fprintf(w, "\n%s\n", deeper(part.body, level))
		}
		if len(part.items) > 0 {
			fmt.Fprintln(w)
			markdownItems(w, part.items, "")
		}
	}
}

// deeper moves the headings of a document below those of a page.
func deeper(body string, level int) string {
	lines := strings.Split(body, "\n")
	code := false
	for i, line := range lines {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if !code && strings.HasPrefix(line, "#") {
			lines[i] = strings.Repeat("#", level) + line
		}
	}
	return strings.Join(lines, "\n")
}

func markdownItems(w io.Writer, items []item, indent string) {
	for _, it := range items {
		name, rest, paren := strings.Cut(it.name, " (")
		fmt.Fprintf(w, "%s* `%s`", indent, name)
		if paren {
			fmt.Fprintf(w, " (%s", rest)
		}
		if it.doc != "" {
			fmt.Fprintf(w, ": %s", it.doc)
		}
		fmt.Fprintln(w)
		markdownItems(w, it.items, indent+"  ")
	}
}

func sentenceCase(s string) string { return s[:1] + strings.ToLower(s[1:]) }

// manName is the name of the page in the manual: pipe-run(1), pipe-sft(5).
func (p *page) manName() string { return "pipe-" + p.name }

// writeMan writes the page as a source of man(1).
func (p *page) writeMan(w io.Writer) {
	fmt.Fprintf(w, ".TH %s %d\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(p.manName())), p.section, roff(p.manName()), roff(p.about))
	for _, part := range p.parts {
		fmt.Fprintf(w, ".SH %s\n", part.title)
		manBody(w, part.body)
		manItems(w, part.items)
	}
}

// manBody writes Markdown: code and tables as they are, headings, paragraphs.
func manBody(w io.Writer, body string) {
	code, table := false, false
	verbatim := func(on bool) {
		if on {
			fmt.Fprint(w, ".PP\n.nf\n")
		} else {
			fmt.Fprint(w, ".fi\n")
		}
	}
	for line := range strings.SplitSeq(body, "\n") {
		if is := strings.HasPrefix(line, "|"); !code && is != table {
			verbatim(is)
			table = is
		}
		switch {
		case strings.HasPrefix(line, "```"):
			code = !code
			verbatim(code)
		case code || table:
			fmt.Fprintln(w, roff(line))
		case line == "":
			fmt.Fprintln(w, ".PP")
		case strings.HasPrefix(line, "#"):
			fmt.Fprintf(w, ".SS %s\n", roff(strings.TrimLeft(line, "# ")))
		default:
			fmt.Fprintln(w, roff(line))
		}
	}
	if table {
		verbatim(false)
	}
}

func manItems(w io.Writer, items []item) {
	for _, it := range items {
		fmt.Fprintf(w, ".TP\n\\fB%s\\fR\n", roff(it.name))
		if it.doc != "" {
			fmt.Fprintln(w, roff(it.doc))
		}
		if len(it.items) > 0 {
			fmt.Fprintln(w, ".RS")
			manItems(w, it.items)
			fmt.Fprintln(w, ".RE")
		}
	}
}

// roff escapes a line of text for troff.
func roff(line string) string {
	line = strings.ReplaceAll(line, `\`, `\e`)
	line = strings.ReplaceAll(line, "-", `\-`)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	return line
}

// anchor is how Markdown renderers name a heading: lower case, words joined by
// hyphens, without other signs.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}
