package httpapi_test

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestDocsLoadNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	w := get(t, api, "/docs")
	page := w.Body.String()
	found := regexp.MustCompile(`(?:src|href|action)\s*=\s*["']?([^"'\s>]+)`).FindAllStringSubmatch(page, -1)
	if len(found) < 5 {
		t.Fatalf("only %d assets in the page", len(found))
	}
	for _, asset := range found {
		if !strings.HasPrefix(asset[1], "/docs/") {
			t.Errorf("%s is not ours", asset[1])
			continue
		}
		if got := get(t, api, asset[1]); got.Code != http.StatusOK || got.Body.Len() == 0 {
			t.Errorf("%s: %d, %d bytes", asset[1], got.Code, got.Body.Len())
		}
	}
	style := get(t, api, "/docs/swagger-ui.css").Body.String()
	if remote := regexp.MustCompile(`(?:url\(|@import)\s*["']?(?:https?:)?//`).FindString(style); remote != "" {
		t.Errorf("the style sheet loads %s…", remote)
	}
	if !strings.Contains(page, "/openapi.json") && !strings.Contains(page, `\/openapi.json`) {
		t.Error("the page does not show our document")
	}
}

// TestDocsPolicy: the browser enforces what the test above looks for, and runs
// the scripts of the page all the same.
func TestDocsPolicy(t *testing.T) {
	t.Parallel()
	w := get(t, newAPI(t, nil), "/docs")
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "http") ||
		strings.Contains(policy, "script-src 'self' 'unsafe-inline'") {
		t.Errorf("policy %s", policy)
	}
	scripts := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllStringSubmatch(w.Body.String(), -1)
	if len(scripts) == 0 {
		t.Fatal("no scripts in the page")
	}
	for _, script := range scripts {
		sum := sha256.Sum256([]byte(script[1]))
		if hash := base64.StdEncoding.EncodeToString(sum[:]); !strings.Contains(policy, "'sha256-"+hash+"'") {
			t.Errorf("the policy forbids the script %.60s…", script[1])
		}
	}
	if handlers := regexp.MustCompile(`\son[a-z]+=["']`).FindString(w.Body.String()); handlers != "" {
		t.Errorf("the policy forbids the attribute %s", handlers)
	}
}

func TestRedoc(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	w := get(t, api, "/redoc")
	page, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
	found := regexp.MustCompile(`(?:src|href|action)\s*=\s*["']?([^"'\s>]+)`).FindAllStringSubmatch(page, -1)
	if len(found) != 1 || !strings.Contains(page, `"/openapi.json"`) || strings.Contains(page, "://") {
		t.Fatalf("the page loads %q:\n%s", found, page)
	}
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "http") || strings.Contains(policy, "script-src 'self' 'unsafe-inline'") {
		t.Errorf("policy %s", policy)
	}
	inline := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindStringSubmatch(page)
	if sum := sha256.Sum256([]byte(inline[1])); !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		t.Errorf("the policy %s forbids %s", policy, inline[1])
	}
	script := get(t, api, found[0][1])
	if script.Code != http.StatusOK || !strings.Contains(script.Body.String(), "Redoc") {
		t.Errorf("%s: %d, %d bytes", found[0][1], script.Code, script.Body.Len())
	}
	expect(t, get(t, api, found[0][1], "If-None-Match", script.Header().Get("ETag")), http.StatusNotModified, "")
	expect(t, get(t, api, "/redoc/index.html"), http.StatusNotFound, `{"detail":"Not Found"}`)
}

func TestDocsAssets(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	plain := get(t, api, "/docs/swagger-ui.css")
	packed := get(t, api, "/docs/swagger-ui.css", "Accept-Encoding", "gzip")
	if packed.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("headers %v", packed.Header())
	}
	reader, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(reader)
	if err != nil || string(unpacked) != plain.Body.String() {
		t.Errorf("the packed style sheet is another (%v)", err)
	}
	if media := plain.Header().Get("Content-Type"); !strings.HasPrefix(media, "text/css") {
		t.Errorf("content type %q", media)
	}
	again := get(t, api, "/docs/swagger-ui.css", "If-None-Match", plain.Header().Get("ETag"))
	expect(t, again, http.StatusNotModified, "")
	for _, name := range []string{"nothing.js", "embed.go", "swagger-ui.css.gz", "%2e%2e", "a%2fb"} {
		expect(t, get(t, api, "/docs/"+name), http.StatusNotFound, `{"detail":"Not Found"}`)
	}
}

// TestAssetsHaveOneAnswer: ranges, conditions and encodings lead to nothing that
// the document does not have.
func TestAssetsHaveOneAnswer(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	const style = "/docs/swagger-ui.css"
	etag := get(t, api, style, "Accept-Encoding", "gzip").Header().Get("ETag")
	for _, test := range []struct {
		header []string
		status int
		packed bool
	}{
		{[]string{"Range", "bytes=0-5"}, http.StatusOK, true},
		{[]string{"Range", "bytes=999999999-"}, http.StatusOK, true},
		{[]string{"Range", "bytes=0-5,7-9"}, http.StatusOK, true},
		{[]string{"If-Match", `"another"`}, http.StatusOK, true},
		{[]string{"If-None-Match", etag}, http.StatusNotModified, false},
		{[]string{"If-None-Match", `"a", W/` + etag}, http.StatusNotModified, false},
		{[]string{"If-None-Match", "*"}, http.StatusNotModified, false},
		{[]string{"Accept-Encoding", "br, GZIP;q=0.5"}, http.StatusOK, true},
		{[]string{"Accept-Encoding", "gzip;q=0"}, http.StatusOK, false},
		{[]string{"Accept-Encoding", "gzip;q=x"}, http.StatusOK, false},
		{[]string{"Accept-Encoding", "*"}, http.StatusOK, false},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := request(method, style, "", append([]string{"Accept-Encoding", "gzip"}, test.header...)...)
			w := serve(t, api, r)
			if packed := w.Header().Get("Content-Encoding") == "gzip"; w.Code != test.status || packed != test.packed {
				t.Errorf("%s with %q: %d %v", method, test.header, w.Code, w.Header())
			}
		}
	}
}
