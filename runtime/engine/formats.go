package engine

import "pipe/runtime/artifact"

// Formats returns the formats of what this version writes to a store, by name.
func Formats() map[string]int {
	return map[string]int{"manifest": artifact.ManifestFormat, "action key": keyFormat}
}
