package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/swaggest/swgui/v5emb"
)

// docs serves the OpenAPI document and the page that shows it. All assets of
// the page are in the binary.
type docs struct {
	page   document
	policy string // the page's Content-Security-Policy
	assets map[string]func() (asset, error)
	api    document
}

const htmlContent = "text/html; charset=utf-8"

// newDocs renders the page once, since its policy depends on its content.
func newDocs() (*docs, error) {
	ui := v5emb.New("Pricemill", "/openapi.json", "/docs")
	rendered, err := render(context.Background(), ui, "/docs", nil)
	if err != nil {
		return nil, err
	}
	page := rendered.String()
	d := &docs{page: newDocument(htmlContent, rendered.Bytes()), policy: pagePolicy(page),
		assets: map[string]func() (asset, error){}}
	for _, found := range regexp.MustCompile(`(?:src|href)="/docs/([^"/]+)"`).FindAllStringSubmatch(page, -1) {
		d.assets[found[1]] = sync.OnceValues(func() (asset, error) { return renderAsset(ui, "/docs/"+found[1]) })
	}
	return d, nil
}

// asset is a file of the page, kept in memory once it was asked for: the
// library's handler unpacks a megabyte for each request, and answers ranges and
// conditions in ways of its own.
type asset struct {
	plain  document
	packed *document // by gzip; nil where that saves nothing
}

func renderAsset(ui http.Handler, path string) (asset, error) {
	plain, err := render(context.Background(), ui, path, nil)
	if err != nil {
		return asset{}, err
	}
	packed, err := render(context.Background(), ui, path, http.Header{"Accept-Encoding": {gzipEncoding}})
	if err != nil {
		return asset{}, err
	}
	media := plain.header.Get("Content-Type")
	a := asset{plain: newDocument(media, plain.Bytes())}
	if packed.header.Get("Content-Encoding") == gzipEncoding {
		small := newDocument(media, packed.Bytes())
		a.packed = &small
	}
	return a, nil
}

// render asks handler for a path, with headers or nil, and keeps what it answers.
func render(ctx context.Context, handler http.Handler, path string, header http.Header) (*rendering, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", path, err)
	}
	maps.Copy(request.Header, header)
	rendered := newRendering()
	handler.ServeHTTP(rendered, request)
	if rendered.status != http.StatusOK {
		return nil, fmt.Errorf("rendering %s: status %d: %s", path, rendered.status, rendered)
	}
	return rendered, nil
}

// rendering is a response kept in memory.
type rendering struct {
	bytes.Buffer
	header http.Header
	status int
}

func newRendering() *rendering { return &rendering{header: http.Header{}, status: http.StatusOK} }

func (r *rendering) Header() http.Header    { return r.header }
func (r *rendering) WriteHeader(status int) { r.status = status }

// pagePolicy allows the scripts that are in the page by their hashes and
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
	d.page.write(w, r, cacheDocument)
	return nil
}

func (d *docs) getAsset(w http.ResponseWriter, r *http.Request) error {
	load, known := d.assets[strings.TrimPrefix(r.URL.Path, "/docs/")]
	if !known {
		return newError(codeNotFound, "Not Found")
	}
	file, err := load()
	if err != nil {
		return err
	}
	vary(w.Header(), "Accept-Encoding")
	chosen := file.plain
	if file.packed != nil && takes(r, gzipEncoding) {
		w.Header().Set("Content-Encoding", gzipEncoding)
		chosen = *file.packed
	}
	chosen.write(w, r, cacheDocument)
	return nil
}

func (d *docs) getOpenAPI(w http.ResponseWriter, r *http.Request) error {
	d.api.write(w, r, cacheDocument)
	return nil
}
