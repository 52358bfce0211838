package hub

import (
	"context"
	"fmt"
	"strings"
)

const scheme = "hf://"

// Remote reports whether a source is of the hub.
func Remote(source string) bool { return strings.HasPrefix(source, scheme) }

// At returns a source of the hub with its revision replaced by a commit.
func At(source, commit string) (string, error) {
	p, err := parseRepo(strings.TrimPrefix(source, scheme))
	if err != nil {
		return "", fmt.Errorf("model %q: %w", source, err)
	}
	if !commitID.MatchString(commit) {
		return "", fmt.Errorf("model %q: %q is not the hash of a commit", source, commit)
	}
	at := scheme + p.String() + "@" + commit
	if p.file != "" {
		at += "/" + p.file
	}
	return at, nil
}

// Commit returns which commit the revision of a source of the hub is now: what
// the hub says, or, when the resolver is offline, what the cache was told last.
// It downloads nothing.
func (r *Resolver) Commit(ctx context.Context, source string) (string, error) {
	commit, err := r.commit(ctx, source)
	if err != nil {
		return "", fmt.Errorf("model %q: %w", source, err)
	}
	return commit, nil
}

func (r *Resolver) commit(ctx context.Context, source string) (string, error) {
	p, err := parseRepo(strings.TrimPrefix(source, scheme))
	if err != nil {
		return "", err
	}
	if commitID.MatchString(p.rev) {
		return p.rev, nil
	}
	if r.Offline {
		return r.remembered(p)
	}
	l, err := r.list(ctx, p)
	return l.SHA, err
}
