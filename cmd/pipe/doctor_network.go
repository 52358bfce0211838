package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"pipe/model/hub"
	"pipe/runtime/lang"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 16 << 20

// reach asks the endpoints of the pipeline's teachers for their models, and
// the hub whether it has those of the pipeline.
func (d *doctor) reach(ctx context.Context) {
	var repos []string
	seen := map[string]bool{}
	if d.prog != nil {
		for _, n := range d.prog.Nodes {
			switch {
			case n.Teacher != nil && n.Teacher.Provider == "openai":
				d.endpoint(ctx, n)
			case n.Model != nil && strings.HasPrefix(n.Model.Source, "hf://"):
				if repo := repository(n.Model.Source); !seen[repo] {
					seen[repo] = true
					repos = append(repos, repo)
				}
			}
		}
	}
	if len(repos) > 0 || d.network {
		d.hub(ctx, repos)
	}
}

// repository is the org/name of a source of the hub.
func repository(source string) string {
	parts := strings.SplitN(strings.TrimPrefix(source, "hf://"), "/", 3)
	name, _, _ := strings.Cut(parts[len(parts)-1], "@")
	if len(parts) > 1 {
		name, _, _ = strings.Cut(parts[1], "@")
		return parts[0] + "/" + name
	}
	return name
}

// endpoint asks a teacher's endpoint for its list of models.
func (d *doctor) endpoint(ctx context.Context, n *lang.Node) {
	u, err := url.Parse(n.Teacher.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		d.add("network", n.Addr, statusFail, "give the base URL, such as \"http://localhost:8000/v1\", without a user or password", "its endpoint is not a base URL")
		return
	}
	key := ""
	if n.Teacher.APIKeyEnv != "" {
		v, _ := d.getenv(n.Teacher.APIKeyEnv)
		key = strings.TrimSpace(v)
	}
	at := u.JoinPath("models").String()
	code, body, err := d.get(ctx, at, key)
	switch {
	case err != nil:
		d.add("network", n.Addr, statusFail, "start the server, or mend the endpoint or the network", "%s does not answer: %v", u.Host, err)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		advice := "set api_key_env to the name of the variable that holds its key"
		if key != "" {
			advice = "check the key in " + n.Teacher.APIKeyEnv
		}
		d.add("network", n.Addr, statusFail, advice, "%s refuses (HTTP %d)", u.Host, code)
	case code == http.StatusOK:
		d.models(n, u.Host, body)
	case code >= 500:
		d.add("network", n.Addr, statusFail, "look at the server's log", "%s answers HTTP %d", u.Host, code)
	default:
		d.add("network", n.Addr, statusWarn, "check the endpoint; some servers just have no list of models", "%s answers, but %s with HTTP %d", u.Host, at, code)
	}
}

// models looks for the teacher's model in the list of its endpoint.
func (d *doctor) models(n *lang.Node, host string, body []byte) {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil || list.Data == nil {
		d.add("network", n.Addr, statusWarn, "check that the endpoint is the base URL of the API, which often ends in /v1", "%s answers, but not with a list of models", host)
		return
	}
	var ids []string
	for _, m := range list.Data {
		ids = append(ids, m.ID)
	}
	if !slices.Contains(ids, n.Teacher.ModelID) {
		few := ids[:min(len(ids), 5)]
		d.add("network", n.Addr, statusWarn, fmt.Sprintf("it has %q%s", few, suggest(n.Teacher.ModelID, ids)), "%s answers, but does not list %q", host, n.Teacher.ModelID)
		return
	}
	d.ok("network", n.Addr, "%s answers and has %s", host, n.Teacher.ModelID)
}

// hub asks the hub for repositories, or, if there are none, whether it is
// there. No token is sent.
func (d *doctor) hub(ctx context.Context, repos []string) {
	h := hub.FromEnv("", d.o.getenv)
	base := strings.TrimRight(h.Endpoint, "/")
	if base == "" {
		base = hub.DefaultEndpoint
	}
	if h.Offline {
		d.ok("network", "hub", "not asked: HF_HUB_OFFLINE is set; models come from %s", h.Cache)
		return
	}
	if len(repos) == 0 {
		switch code, _, err := d.get(ctx, base+"/api/models?limit=1", ""); {
		case err != nil:
			d.add("network", "hub", statusFail, "mend the network, or name a mirror with HF_ENDPOINT", "%s does not answer: %v", base, err)
		case code != http.StatusOK:
			d.add("network", "hub", statusWarn, "name the hub with HF_ENDPOINT", "%s answers HTTP %d", base, code)
		default:
			d.ok("network", "hub", "%s answers", base)
		}
	}
	for _, repo := range repos {
		switch code, _, err := d.get(ctx, base+"/api/models/"+repo, ""); {
		case err != nil:
			d.add("network", repo, statusFail, "mend the network, name a mirror with HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use the cache", "%s does not answer: %v", base, err)
		case code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound:
			status, advice := statusFail, "check its name; a private or gated one needs HF_TOKEN"
			if h.Token != "" {
				status, advice = statusWarn, "a private or gated one may still open to your token, which is not sent here"
			}
			d.add("network", repo, status, advice, "%s does not show it without a token (HTTP %d)", base, code)
		case code != http.StatusOK:
			d.add("network", repo, statusWarn, "try again later", "%s answers HTTP %d", base, code)
		default:
			d.ok("network", repo, "%s has it", base)
		}
	}
}

// get asks for a page, with a key if there is one, and follows no redirect:
// the key is for this server only.
func (d *doctor) get(ctx context.Context, at, key string) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, nil, errors.New("the address is not valid")
	}
	req.Header.Set("User-Agent", "pipe")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // whose text repeats the address
			err = ue.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer in %s", d.timeout)
		}
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return res.StatusCode, body, err
}
