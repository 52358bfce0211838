package gguf

import (
	"encoding/json"
	"slices"
)

// The patterns of pre-tokenizers, as tokenizer.json spells them.
const (
	regexLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	regexQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	regexO200k  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	regexTekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// A pre is a pre-tokenizer that llama.cpp knows by name. Its regular
// expression is regex, or GPT-2's when that is empty; digits are cut off one by
// one first when digits is set.
type pre struct {
	names        []string // the first one is written
	regex        string
	digits       bool
	ignoreMerges bool // a pre-token that is a token is not merged
	addBOS       bool // unless the file says otherwise
}

func pres() []pre {
	return []pre{
		{names: []string{"gpt-2", "gpt2", "phi-2", "jina-es", "mpt", "olmo"}},
		{names: []string{"smollm", "starcoder", "refact", "command-r", "codeshell"}, digits: true},
		{names: []string{"llama-bpe", "llama3", "llama-v3"}, regex: regexLlama3, ignoreMerges: true, addBOS: true},
		{names: []string{"dbrx", "smaug-bpe"}, regex: regexLlama3},
		{names: []string{"qwen2", "deepseek-r1-qwen"}, regex: regexQwen2},
		{names: []string{"llama4"}, regex: regexO200k, ignoreMerges: true},
		{names: []string{"gpt-4o"}, regex: regexO200k},
		{names: []string{"tekken"}, regex: regexTekken, ignoreMerges: true, addBOS: true},
		{names: []string{"tekken"}, regex: regexTekken, addBOS: true}, // as transformers converts it
	}
}

func preByName(name string) (pre, bool) {
	for _, p := range pres() {
		if slices.Contains(p.names, name) {
			return p, true
		}
	}
	return pre{}, false
}

func preNames() (names []string) {
	for _, p := range pres() {
		names = append(names, p.names...)
	}
	return slices.Compact(names)
}

// byteLevelPart is a ByteLevel pre-tokenizer, decoder or post-processor.
func byteLevelPart(useRegex, trim bool) object {
	return object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim, "use_regex": useRegex}
}

// preTokenizer returns the pre_tokenizer of tokenizer.json.
func (p pre) preTokenizer() any {
	switch {
	case p.regex != "":
		split := object{"type": "Split", "pattern": object{"Regex": p.regex}, "behavior": "Isolated", "invert": false}
		return object{"type": "Sequence", "pretokenizers": []any{split, byteLevelPart(false, true)}}
	case p.digits:
		digits := object{"type": "Digits", "individual_digits": true}
		return object{"type": "Sequence", "pretokenizers": []any{digits, byteLevelPart(true, true)}}
	}
	return byteLevelPart(true, true)
}

// preOf recognises the pre_tokenizer of a tokenizer.json.
func preOf(raw json.RawMessage, ignoreMerges bool) (pre, bool) {
	var part struct {
		Type       string
		Individual bool  `json:"individual_digits"`
		Prefix     bool  `json:"add_prefix_space"`
		UseRegex   *bool `json:"use_regex"`
		Behavior   string
		Invert     bool
		Pattern    struct{ Regex string }
		Parts      []json.RawMessage `json:"pretokenizers"`
	}
	var found pre
	parts := []json.RawMessage{raw}
	byteLevel := false
	for len(parts) > 0 {
		next := parts[0]
		parts = parts[1:]
		part.Type, part.UseRegex, part.Parts, part.Pattern.Regex = "", nil, nil, ""
		part.Individual, part.Prefix, part.Behavior, part.Invert = false, false, "", false
		if json.Unmarshal(next, &part) != nil || byteLevel {
			return pre{}, false
		}
		switch part.Type {
		case "Sequence":
			parts = append(part.Parts, parts...)
		case "Digits":
			if !part.Individual || found.digits || found.regex != "" {
				return pre{}, false
			}
			found.digits = true
		case "Split":
			if part.Behavior != "Isolated" || part.Invert || part.Pattern.Regex == "" || found.regex != "" || found.digits {
				return pre{}, false
			}
			found.regex = part.Pattern.Regex
		case "ByteLevel":
			if part.Prefix || (part.UseRegex == nil || *part.UseRegex) == (found.regex != "") {
				return pre{}, false
			}
			byteLevel = true
		default:
			return pre{}, false
		}
	}
	for _, p := range pres() {
		if byteLevel && p.regex == found.regex && p.digits == found.digits && p.ignoreMerges == ignoreMerges {
			return p, true
		}
	}
	return pre{}, false
}
