package chat

import (
	"strings"
	"testing"
)

// bombs are small templates of which one step would take hours, or more
// memory than there is: each is stopped by the count of steps, which all that
// is written, copied or compared goes into.
var bombs = map[string]string{
	"nested text":        doubled("s") + `{{ ns.s }}`,
	"nested text unseen": doubled("s") + `{% if ns.s | string %}x{% endif %}`,
	"nested JSON":        doubled("s") + `{{ ns.s | tojson }}`,
	"nested comparison":  doubled("s") + doubled("t") + `{{ ns.s == ns.t }}`,
	"nested search":      doubled("s") + doubled("t") + `{{ ns.s in [ns.t] }}`,
	"JSON indent":        `{{ range(50000) | tojson(indent='x' * 1000000) }}`,
	"JSON separators":    `{{ range(50000) | tojson(separators=('x' * 1000000, '')) }}`,
	"JSON keys":          `{{ {'a': 1, 'b': 2} | tojson(separators=(',', 'x' * 50000000)) | length }}{{ {'a': 1, 'b': 2} | tojson(separators=(',', 'x' * 50000000)) }}`,
	"characters":         `{% set a = 'a' * 20000000 %}{% set b = 'b' * 20000000 %}{{ a.strip(b ~ 'a') }}`,
	"sort":               alike("sort"),
	"unique":             `{% set a = 'a' * 1000000 %}{% set ns = namespace(s=[]) %}{% for i in range(70) %}{% set ns.s = ns.s + [a ~ '%05d' ~ i] %}{% endfor %}{{ ns.s | unique | length }}`,
	"maximum":            alike("max"),
	"affixes":            `{% set a = 'a' * 1000000 %}{% set t = (a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a) %}{% for i in range(99999) %}{% if ('b' ~ a).startswith(t) %}{% endif %}{% endfor %}`,
	"date":               `{{ strftime_now('%c' * 20000000) }}`,
	"escape":             `{{ ('<' * 20000000) | e | length }}`,
	"words":              `{{ ('a ' * 30000000).split() | length }}`,
	"lines":              `{{ ('\n' * 30000000) | indent | length }}`,
	"copies":             `{% set r = range(99999) %}{% for i in range(99999) %}{% set x = r | reverse %}{% endfor %}`,
	"lists":              `{% set r = range(99999) %}{% for i in range(99999) %}{% set x = r | list %}{% endfor %}`,
	"walks":              `{% set r = range(99999) %}{% for i in range(99999) %}{% set x = r | max %}{% endfor %}`,
	"tests":              `{% set a = 'A' * 20000000 %}{% for i in range(99999) %}{% if a is upper %}{% endif %}{% endfor %}`,
	"mapped":             `{% set a = 'A' * 20000000 %}{% set l = [a, a, a, a, a, a, a, a, a, a] %}{{ l | map('lower') | list | length }}`,
	"selected":           `{% set a = 'A' * 20000000 %}{% set l = [a, a, a, a, a, a, a, a, a, a] %}{{ l | select('upper') | list | length }}`,
	"keys":               `{% set a = 'A' * 20000000 %}{% for i in range(99999) %}{% set x = {'a': 1}[a] %}{% set x = {'a': 1}.get(a) %}{% set x = a in {'a': 1} %}{% endfor %}`,
	"attributes":         `{% set a = 'A' * 20000000 %}{% for i in range(99999) %}{% set x = [] | map(attribute=a) %}{% endfor %}`,
	"scopes":             strings.Repeat(`{% with a = 1 %}`, 180) + `{% for i in range(99999) %}{% for j in range(99) %}{% if messages %}{% endif %}{% endfor %}{% endfor %}` + strings.Repeat(`{% endwith %}`, 180),
	"slices":             `{% set s = 'a' * 30000000 %}{% for i in range(9) %}{% set x = s[::-1] %}{% endfor %}`,
}

// doubled makes a list of lists 40 deep in which every list is shared: a few
// hundred bytes that are written out as terabytes.
func doubled(name string) string {
	return `{% set ns = namespace(s=[1], t=[1]) if ns is not defined else ns %}{% for i in range(40) %}{% set ns.` + name + ` = [ns.` + name + `, ns.` + name + `] %}{% endfor %}`
}

// alike puts three long texts that differ at their ends into a long list.
func alike(filter string) string {
	return `{% set a = 'a' * 1000000 %}{% set ns = namespace(s=[a ~ 'b', a ~ 'c', a ~ 'd']) %}` +
		`{% for i in range(14) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | ` + filter + ` | length }}`
}

func TestBombs(t *testing.T) {
	for name, src := range bombs {
		_, err := parse(t, src).Text(Input{})
		if err == nil || !strings.Contains(err.Error(), "line 1: takes more than") && !strings.Contains(err.Error(), "line 1: makes a string of") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLongName(t *testing.T) {
	if _, err := Parse("{{ " + strings.Repeat("a", 257) + " }}"); err == nil || !strings.Contains(err.Error(), "line 1: the name aaaaaaaaaaaaaaaaaaaa...") {
		t.Errorf("a long name: %v", err)
	}
}

// TestArithmeticEnds: what Python computes at once is computed at once.
func TestArithmeticEnds(t *testing.T) {
	for src, want := range map[string]string{
		`{{ (-1) ** 9223372036854775807 }}`: "-1",
		`{{ (-1) ** 9223372036854775806 }}`: "1",
		`{{ 1 ** 9223372036854775807 }}`:    "1",
		`{{ 0 ** 9223372036854775807 }}`:    "0",
		`{{ (-1) ** 0 }}{{ 0 ** 0 }}`:       "11",
		`{{ (-2) ** 63 }}`:                  "-9223372036854775808",
		`{{ 'héllo'[1:3] }}|{{ 'héllo'[3:1] }}|{{ 'héllo'[-9:-2] }}|{{ 'héllo'[2:99:1] }}`:              "él||hél|llo",
		`{{ 'a  b c '.split() }}{{ ''.split() }}{{ 'a\nb\r\n'.splitlines() }}{{ ' a b ' | wordcount }}`: "['a', 'b', 'c'][]['a', 'b']2",
		`{{ 'xyax'.strip('yx') }}{{ 'x'.strip('') }}`:                                                   "ax",
	} {
		if got, err := parse(t, src).Text(Input{}); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", src, got, err, want)
		}
	}
}
