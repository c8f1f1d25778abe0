package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/swaggest/swgui/v5emb"

	"github.com/pricemill/pricemill/schema"
)

// docs serves the OpenAPI document and the page that shows it. All assets of
// the page are in the binary.
type docs struct {
	page   []byte
	policy string // the page's Content-Security-Policy
	assets http.Handler
	names  map[string]bool // the assets that the page refers to
	api    []byte          // the document
}

// newDocs renders the page once, since its policy depends on its content.
func newDocs() (*docs, error) {
	ui := v5emb.New("Pricemill", "/openapi.json", "/docs")
	request, err := http.NewRequest(http.MethodGet, "/docs", nil)
	if err != nil {
		return nil, fmt.Errorf("rendering the documentation page: %w", err)
	}
	rendered := &rendering{header: http.Header{}, status: http.StatusOK}
	ui.ServeHTTP(rendered, request)
	page := rendered.String()
	if rendered.status != http.StatusOK {
		return nil, fmt.Errorf("rendering the documentation page: status %d: %s", rendered.status, page)
	}
	d := &docs{
		page: []byte(page), policy: pagePolicy(page), assets: ui, names: map[string]bool{}, api: schema.OpenAPI(),
	}
	for _, found := range regexp.MustCompile(`(?:src|href)="/docs/([^"/]+)"`).FindAllStringSubmatch(page, -1) {
		d.names[found[1]] = true
	}
	return d, nil
}

// rendering is a response kept in memory.
type rendering struct {
	bytes.Buffer
	header http.Header
	status int
}

func (r *rendering) Header() http.Header    { return r.header }
func (r *rendering) WriteHeader(status int) { r.status = status }

// pagePolicy allows the scripts that stand in the page by their hashes and
// nothing that comes from elsewhere. Swagger UI sets styles on elements and
// shows icons from data URLs.
func pagePolicy(page string) string {
	scripts := []string{"'self'"}
	for _, found := range regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllStringSubmatch(page, -1) {
		sum := sha256.Sum256([]byte(found[1]))
		scripts = append(scripts, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	return strings.Join([]string{
		"default-src 'none'",
		"script-src " + strings.Join(scripts, " "),
		"style-src 'self' 'unsafe-inline'",
		"img-src 'self' data:",
		"connect-src 'self'",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
	}, "; ")
}

func (d *docs) getPage(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Security-Policy", d.policy)
	writeCached(w, r, "text/html; charset=utf-8", cacheDocument, d.page)
	return nil
}

func (d *docs) getAsset(w http.ResponseWriter, r *http.Request) error {
	if !d.names[strings.TrimPrefix(r.URL.Path, "/docs/")] {
		return newError(codeNotFound, "Not Found")
	}
	w.Header().Set("Cache-Control", cacheDocument)
	if condition := r.Header.Get("If-None-Match"); condition != "" {
		r = r.Clone(r.Context())
		r.Header.Set("If-None-Match", strings.Trim(strings.TrimPrefix(condition, "W/"), `"`))
	}
	d.assets.ServeHTTP(quotingETag{w}, r)
	return nil
}

// quotingETag puts quotes around the ETag, which the file server of the assets
// leaves out, so that no cache would ever make use of it.
type quotingETag struct{ http.ResponseWriter }

func (w quotingETag) WriteHeader(status int) {
	w.quote()
	w.ResponseWriter.WriteHeader(status)
}

func (w quotingETag) Write(b []byte) (int, error) {
	w.quote()
	return w.ResponseWriter.Write(b)
}

func (w quotingETag) quote() {
	if etag := w.Header().Get("ETag"); etag != "" && !strings.HasPrefix(etag, `"`) {
		w.Header().Set("ETag", `"`+etag+`"`)
	}
}

func (d *docs) getOpenAPI(w http.ResponseWriter, r *http.Request) error {
	writeCached(w, r, jsonContent, cacheDocument, d.api)
	return nil
}
