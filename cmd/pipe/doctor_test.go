package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipe/gpu"
)

// consult runs pipe doctor --json and returns its findings by area and name.
func consult(t *testing.T, want int, args ...string) map[string]finding {
	t.Helper()
	code, out, err := ask(t, append([]string{"doctor", "--json"}, args...)...)
	if code != want {
		t.Errorf("%q: exit code %d, want %d\n%s%s", args, code, want, out, err)
	}
	list := map[string]finding{}
	for line := range strings.Lines(out) {
		var f finding
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil || f.Type != "check" || f.Area == "" || f.Name == "" || f.Found == "" {
			t.Fatalf("%s: %v", line, err)
		}
		if f.Status != statusOK && f.Status != statusWarn && f.Status != statusFail {
			t.Errorf("%s: an unknown status", line)
		}
		list[f.Area+" "+f.Name] = f
	}
	return list
}

func expectFinding(t *testing.T, list map[string]finding, name, status, found, advice string) {
	t.Helper()
	f, ok := list[name]
	if !ok || f.Status != status || !strings.Contains(f.Found, found) || !strings.Contains(f.Advice, advice) {
		t.Errorf("%s: got %+v, want %s, %q, %q", name, f, status, found, advice)
	}
}

func TestDoctorFindsAMachineThatIsWell(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PIPE_STORE", "")
	list := consult(t, exitOK, "--device", "cpu")
	for _, name := range []string{"versions pipe", "versions formats", "versions kinds", "device processor", "device threads", "device cuda", "store path", "store writing", "pipeline file"} {
		if f := list[name]; f.Status != statusOK {
			t.Errorf("%s: %+v", name, f)
		}
	}
	expectFinding(t, list, "store path", statusOK, "the first run makes it", "")
	expectFinding(t, list, "pipeline file", statusOK, "none here", "")
	if entries, err := os.ReadDir("."); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
	t.Setenv("PIPE_CPU", "generic")
	expectFinding(t, consult(t, exitOK, "--device", "cpu"), "device kernels", statusWarn, "cpu:generic", "unset PIPE_CPU")
	code, out, _ := ask(t, "doctor", "--device", "cpu")
	if code != exitOK || !strings.Contains(out, "warn  device") || !strings.Contains(out, "→ unset PIPE_CPU") || !strings.Contains(out, "0 failures") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if code, _, err := ask(t, "doctor", "--device", "cuda"); !gpu.Built && (code != exitUsage || !strings.Contains(err, "without a CUDA backend")) {
		t.Errorf("exit code %d, %s", code, err)
	}
}

func TestDoctorLooksIntoTheStore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.hcl")
	put("p.hcl", "data \"rows\" {\n  source = \"./rows.jsonl\"\n}\n")(t, dir)
	put("rows.jsonl", oneRow)(t, dir)
	if code, _, err := ask(t, "run", path); code != exitOK {
		t.Fatal(err)
	}
	put(".pipe/leases/dead", "{}")(t, dir)
	long := time.Now().Add(-time.Hour)
	check(t, os.Chtimes(filepath.Join(dir, ".pipe/leases/dead"), long, long))
	list := consult(t, exitOK, path)
	expectFinding(t, list, "store leases", statusWarn, "1 left by runs that are gone", "takes it over")
	expectFinding(t, list, "store count", statusOK, "1 object, 1 run", "")
	expectFinding(t, list, "store content", statusOK, "objects ", "")
	expectFinding(t, list, "pipeline file", statusOK, "is valid: 1 stage", "")

	// Where no store can be.
	expectFinding(t, consult(t, exitFailed, "--store", path), "store path", statusFail, "is a file", "--store")
	expectFinding(t, consult(t, exitFailed, "--store", filepath.Join(path, "store")), "store path", statusFail, "", "--store")
	if _, err := os.Stat("/proc/self"); err == nil { // where nobody can write
		expectFinding(t, consult(t, exitFailed, "--store", "/proc/self/store"), "store writing", statusFail, "", "another store")
	}
	put("bad.hcl", "data \"rows\" {\n}\ndata \"more\" {}\n")(t, dir)
	expectFinding(t, consult(t, exitFailed, filepath.Join(dir, "bad.hcl")), "pipeline file", statusFail, "2 mistakes", "pipe validate")
}

// Endpoints in every state. The key goes to the endpoint and nowhere else, and
// is not shown.
func TestDoctorAsksEndpoints(t *testing.T) {
	const secret = "sk-very-secret"
	t.Setenv("DOCTOR_KEY", secret)
	t.Setenv("DOCTOR_NO_KEY", "")
	leaked := make(chan string, 10)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { leaked <- r.Header.Get("Authorization") }))
	defer elsewhere.Close()
	release := make(chan struct{})
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		switch strings.Split(r.URL.Path, "/")[1] {
		case "good":
			fmt.Fprint(w, `{"data":[{"id":"qwen"},{"id":"llama"}]}`)
		case "html":
			fmt.Fprint(w, "<html>")
		case "locked":
			w.WriteHeader(http.StatusUnauthorized)
		case "broken":
			w.WriteHeader(http.StatusBadGateway)
		case "moved":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		case "slow":
			<-release
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	defer close(release)
	refused := httptest.NewServer(nil)
	refused.Close()
	var b strings.Builder
	teacher := func(name, endpoint, model, key string) {
		fmt.Fprintf(&b, "teacher %q {\n  provider = \"openai\"\n  endpoint = %q\n  model_id = %q\n", name, endpoint, model)
		if key != "" {
			fmt.Fprintf(&b, "  api_key_env = %q\n", key)
		}
		b.WriteString("}\n")
	}
	teacher("good", srv.URL+"/good/v1", "qwen", "DOCTOR_KEY")
	teacher("typo", srv.URL+"/good/v1", "qwem", "")
	teacher("html", srv.URL+"/html", "m", "")
	teacher("locked", srv.URL+"/locked/v1", "m", "DOCTOR_KEY")
	teacher("open", srv.URL+"/locked/v1", "m", "")
	teacher("broken", srv.URL+"/broken", "m", "")
	teacher("moved", srv.URL+"/moved", "m", "DOCTOR_KEY")
	teacher("nothing", srv.URL+"/nothing", "m", "")
	teacher("slow", srv.URL+"/slow", "m", "")
	teacher("refused", refused.URL, "m", "DOCTOR_NO_KEY")
	teacher("user", "http://user:"+secret+"@127.0.0.1/v1", "m", "")
	dir := t.TempDir()
	put("p.hcl", b.String())(t, dir)
	path := filepath.Join(dir, "p.hcl")
	list := consult(t, exitFailed, "--timeout", "300ms", path)
	for name, want := range map[string][3]string{
		"network teacher.good":    {statusOK, "has qwen", ""},
		"network teacher.typo":    {statusWarn, `does not list "qwem"`, `did you mean "qwen"?`},
		"network teacher.html":    {statusWarn, "not with a list", "/v1"},
		"network teacher.locked":  {statusFail, "HTTP 401", "check the key in DOCTOR_KEY"},
		"network teacher.open":    {statusFail, "HTTP 401", "api_key_env"},
		"network teacher.broken":  {statusFail, "HTTP 502", "log"},
		"network teacher.moved":   {statusWarn, "HTTP 302", ""},
		"network teacher.nothing": {statusWarn, "HTTP 404", ""},
		"network teacher.slow":    {statusFail, "no answer in 300ms", ""},
		"network teacher.refused": {statusFail, "does not answer", "start the server"},
		"network teacher.user":    {statusFail, "not a base URL", "without a user"},
	} {
		expectFinding(t, list, name, want[0], want[1], want[2])
	}
	expectFinding(t, list, "pipeline secret", statusFail, "DOCTOR_NO_KEY", "export DOCTOR_NO_KEY=...")
	for _, a := range asked {
		if !strings.HasPrefix(a, "GET /") || !strings.Contains(a, "/models ") {
			t.Errorf("it asked for %q", a)
		}
	}
	if len(leaked) > 0 {
		t.Errorf("a redirect was followed, with the key %q", <-leaked)
	}
	if _, out, err := ask(t, "doctor", "--timeout", "300ms", path); strings.Contains(out+err, secret) {
		t.Error("it shows the key")
	}
}

func TestDoctorAsksTheHub(t *testing.T) {
	const secret = "hf_secret"
	asked := map[string]string{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path] = r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/api/models/org/open", "/api/models":
			fmt.Fprint(w, "[]")
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	t.Setenv("HF_ENDPOINT", srv.URL)
	t.Setenv("HF_TOKEN", secret)
	t.Setenv("HF_HUB_OFFLINE", "")
	dir := t.TempDir()
	path := filepath.Join(dir, "p.hcl")
	put("p.hcl", "model \"a\" {\n  source = \"hf://org/open@main\"\n}\nmodel \"b\" {\n  source = \"hf://org/gated/x.gguf\"\n}\n")(t, dir)
	list := consult(t, exitOK, path)
	expectFinding(t, list, "network org/open", statusOK, "has it", "")
	expectFinding(t, list, "network org/gated", statusWarn, "HTTP 401", "not sent here")
	for at, key := range asked {
		if key != "" {
			t.Errorf("%s was asked for with %q", at, key)
		}
	}
	t.Setenv("HF_TOKEN", "")
	expectFinding(t, consult(t, exitFailed, path), "network org/gated", statusFail, "HTTP 401", "HF_TOKEN")

	clear(asked)
	put("none.hcl", "data \"rows\" {\n  source = \"./x\"\n}\n")(t, dir)
	if consult(t, exitOK, filepath.Join(dir, "none.hcl")); len(asked) > 0 {
		t.Errorf("it asked for %v although the pipeline needs no hub", asked)
	}
	expectFinding(t, consult(t, exitOK, "--network", filepath.Join(dir, "none.hcl")), "network hub", statusOK, "answers", "")
	t.Setenv("HF_HUB_OFFLINE", "1")
	clear(asked)
	if list := consult(t, exitOK, "--network", path); len(asked) > 0 || list["network hub"].Status != statusOK {
		t.Errorf("it asked for %v although it must not: %+v", asked, list["network hub"])
	}
}
