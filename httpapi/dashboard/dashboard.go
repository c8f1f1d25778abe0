// Package dashboard is the pages for browsers: what they look like, and the few files
// that they load. Package httpapi serves them and knows what they show.
//
// Every page is complete without JavaScript. The script only keeps it up to date.
package dashboard

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strings"
)

//go:embed templates assets
var files embed.FS

// Policy is the Content-Security-Policy of every page: nothing but our own files, and
// nothing inline.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Frame is what all pages show.
type Frame struct {
	// Title is that of the page.
	Title string
	// Page is its name in the navigation.
	Page string
	// Version is the service's.
	Version string
	// Notice is the result of what a form did; empty for none.
	Notice string
}

// pages are the templates, each with the layout that all share.
var pages = parse()

func parse() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").ParseFS(files, "templates/layout.html"))
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	all := map[string]*template.Template{}
	for _, name := range names {
		if name != "templates/layout.html" {
			all[strings.TrimSuffix(path.Base(name), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(files, name))
		}
	}
	return all
}

// View is what one page shows. It is one of the types of this package.
type View interface{ template() string }

// Render returns the page of a view.
func Render(view View) ([]byte, error) {
	var out bytes.Buffer
	if err := pages[view.template()].Execute(&out, view); err != nil {
		return nil, fmt.Errorf("rendering the page %s: %w", view.template(), err)
	}
	return out.Bytes(), nil
}

// Asset returns a file that pages load, and its type.
func Asset(name string) (content []byte, contentType string, found bool) {
	content, err := files.ReadFile("assets/" + path.Base("/"+name))
	if err != nil {
		return nil, "", false
	}
	return content, contentTypes[path.Ext(name)], true
}

// contentTypes are those of our assets. Package mime would ask the machine.
var contentTypes = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}
