package chat

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// given are the names that a template always finds defined.
var given = []string{"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token"}

var (
	name = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	word = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)
)

// WithDefaults returns the template src with values for variables where whoever renders it gives
// none: strings, numbers and booleans, as JSON. A name that src does not ask for is an
// error.
func WithDefaults(src string, vars map[string]json.RawMessage) (string, error) {
	var b strings.Builder
	asked := word.FindAllString(src, -1)
	for _, v := range slices.Sorted(maps.Keys(vars)) {
		switch value := string(vars[v]); {
		case !name.MatchString(v):
			return "", fmt.Errorf("%q is no name of a variable", v)
		case slices.Contains(given, v):
			return "", fmt.Errorf("%s is given to every template, and cannot be set", v)
		case value == "null" || strings.HasPrefix(value, "[") || strings.HasPrefix(value, "{"):
			return "", fmt.Errorf("%s is %s; it must be a string, a number, true or false", v, value)
		case !slices.Contains(asked, v):
			return "", fmt.Errorf("the chat template does not ask for %s, and would write the same whatever it is", v)
		default:
			fmt.Fprintf(&b, "{%%- if %s is not defined %%}{%%- set %[1]s = %s %%}{%%- endif %%}", v, value)
		}
	}
	if b.Len() > 0 && strings.HasPrefix(src, "\n") {
		b.WriteString("{{ '' }}") // the line feed after a tag would be left out
	}
	b.WriteString(src)
	return b.String(), nil
}
