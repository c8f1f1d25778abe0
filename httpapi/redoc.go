package httpapi

import (
	"net/http"
	"sync"

	goredoc "github.com/mvrilo/go-redoc"
)

const (
	redocScript   = "/redoc/redoc.standalone.js"
	scriptContent = "text/javascript; charset=utf-8"
)

// redocPage is ours: the library's holds the script, a megabyte, in itself.
const redocPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Pricemill</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body { margin: 0 }</style>
</head>
<body>
<div id="redoc"></div>
<script src="` + redocScript + `"></script>
<script>Redoc.init("/openapi.json", {}, document.getElementById("redoc"))</script>
</body>
</html>
`

// redoc serves the page of ReDoc and its script, which is in the binary.
type redoc struct {
	page   document
	policy string
	script func() document
}

// newRedoc allows, besides what Swagger UI needs, the worker that searches:
// ReDoc makes it from text.
func newRedoc() redoc {
	return redoc{newDocument(htmlContent, []byte(redocPage)), pagePolicy(redocPage) + "; worker-src blob:",
		sync.OnceValue(func() document { return newDocument(scriptContent, []byte(goredoc.JavaScript)) })}
}

func (d redoc) getPage(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Security-Policy", d.policy)
	d.page.write(w, r, cacheDocument)
	return nil
}

func (d redoc) getScript(w http.ResponseWriter, r *http.Request) error {
	d.script().write(w, r, cacheDocument)
	return nil
}
