// Package checkout fetches modules from git repositories: each commit once,
// into a directory of plain files. The program git does the fetching, with the
// user's own credentials and settings.
package checkout

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Prefix begins the sources that this package understands.
const Prefix = "git::"

// A Source is where a module lies: git::REPO//DIR?ref=REF.
type Source struct {
	Repo string // an https, ssh or file URL
	Dir  string // of the module in the repository, with slashes; "" for its root
	Ref  string // a branch, a tag or a whole commit hash; "" for the repository's own choice
}

var (
	refName  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/+@-]{0,199}$`)
	hostName = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9.:\]-]{0,254}$`)
	userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
	hash     = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

// Parse reads a source. Everything in it is checked before git sees it: git
// has transports that run programs, and takes what begins with - for an option.
func Parse(source string) (Source, error) {
	bad := func(format string, args ...any) (Source, error) {
		return Source{}, fmt.Errorf("source %q "+format, append([]any{source}, args...)...)
	}
	rest, ok := strings.CutPrefix(source, Prefix)
	if !ok || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return bad("is not of the form git::https://HOST/REPO.git//DIR?ref=REF")
	}
	u, err := url.Parse(rest)
	if err != nil || !strings.HasPrefix(rest, u.Scheme+"://") || u.Fragment != "" {
		return bad("is not of the form git::https://HOST/REPO.git//DIR?ref=REF")
	}
	switch u.Scheme {
	case "https", "ssh":
		if !hostName.MatchString(u.Host) {
			return bad("has no host that could be asked")
		}
	case "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return bad("needs an absolute path: git::file:///PATH")
		}
	default:
		return bad("has the protocol %q; modules are fetched by https, ssh or file", u.Scheme)
	}
	if u.User != nil {
		if _, secret := u.User.Password(); secret || u.Scheme != "ssh" || !userName.MatchString(u.User.Username()) {
			return bad("holds a user or a password; a source is shared with others: let a credential helper of git know it")
		}
	}
	s := Source{}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || len(query) > 1 || len(query) == 1 && len(query["ref"]) != 1 {
		return bad("may hold ?ref=REF, and nothing else, after its path")
	}
	if s.Ref = query.Get("ref"); query.Has("ref") && (!refName.MatchString(s.Ref) || strings.Contains(s.Ref, "..")) {
		return bad("has the ref %q, which is no branch, tag or commit", s.Ref)
	}
	repo, dir, _ := strings.Cut(u.Path, "//")
	if s.Dir, err = inner(dir); err != nil {
		return bad("%v", err)
	}
	if strings.Trim(repo, "/") == "" {
		return bad("names no repository")
	}
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = "/"+strings.Trim(repo, "/"), "", "", false
	s.Repo = u.String()
	return s, nil
}

// inner checks the path of a module inside its repository.
func inner(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	clean := path.Clean(dir)
	if clean != strings.TrimSuffix(dir, "/") || clean == ".." || strings.HasPrefix(clean, "../") || path.IsAbs(clean) {
		return "", fmt.Errorf("has the directory %q, which does not lie in the repository", dir)
	}
	for part := range strings.SplitSeq(clean, "/") {
		if strings.EqualFold(part, ".git") {
			return "", errors.New("names git's own directory")
		}
	}
	if clean == "." {
		return "", nil
	}
	return clean, nil
}

// String returns the source as Parse reads it.
func (s Source) String() string {
	text := Prefix + s.Repo
	if s.Dir != "" {
		text += "//" + (&url.URL{Path: s.Dir}).EscapedPath()
	}
	if s.Ref != "" {
		text += "?ref=" + url.QueryEscape(s.Ref)
	}
	return text
}

// Pinned reports whether the ref is a commit, which never changes.
func (s Source) Pinned() bool { return hash.MatchString(s.Ref) }

// IsCommit reports whether text is the whole hash of a commit.
func IsCommit(text string) bool { return hash.MatchString(text) }
