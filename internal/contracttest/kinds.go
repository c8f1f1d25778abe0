package contracttest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// kinds are the ways to make a request of an operation.
func (g *Generator) kinds(o *Operation) []kind {
	if o.form {
		return g.formKinds()
	}
	creates := o.body != nil
	all := []kind{
		{"nothing wrong", g.ofGood(func(*Request) bool { return true }), creates},
		{"nothing wrong, odd headers", g.ofGood(g.addOddHeaders), creates},
		{"nothing wrong, parameters that no one asked for", g.ofGood(g.addOddParameters), creates},
		{"hostile headers", g.ofAny(g.addHostileHeaders), creates},
		{"a garbled query, errors as problems", g.ofAny(func(r *Request) { g.garbleQuery(r); r.setHeader("Accept", "application/json, "+problemMedia) }), creates},
		{"a garbled query", g.ofAny(g.garbleQuery), creates},
		{"a garbled path", g.ofAny(g.garblePath), creates},
		{"another method", g.ofAny(g.changeMethod), creates},
		{"another host", g.ofGood(g.changeHost), false},
		{"of another site", g.ofGood(g.changeOrigin), creates},
		{"no HTTP", g.ofGood(g.breakMessage), false},
	}
	if o.Method == http.MethodGet {
		all = append(all, kind{"HEAD", g.ofGood(func(r *Request) bool { r.Method = http.MethodHead; return true }), false},
			kind{"a page that an answer led to", g.link, false},
			kind{"what is known already", g.known, false})
		if _, hasPage := o.responses[http.StatusOK].bodies[pageMedia]; hasPage {
			all = append(all, kind{"as browsers ask", g.ofGood(func(r *Request) bool { r.setHeader("Accept", browserAccepts); return true }), false})
		}
	}
	if o.body != nil {
		all = append(all, g.bodyKinds(o)...)
	} else {
		all = append(all, kind{"a body that no one asked for", g.ofGood(g.addBody), false})
	}
	for _, p := range o.parameters {
		all = append(all, g.parameterKinds(o, p)...)
	}
	if o.hasParameter("from") && o.hasParameter("to") {
		all = append(all, kind{"from is not before to", g.ofGood(g.turnTime), false})
	}
	return all
}

// pageMedia is the type of pages, which browsers prefer as browserAccepts says.
const (
	pageMedia      = "text/html; charset=utf-8"
	browserAccepts = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
)

// formKinds are for a form, which only pages fill in.
func (g *Generator) formKinds() []kind {
	return []kind{
		{"an empty form", g.ofGood(func(r *Request) bool { r.Statuses = []int{http.StatusUnprocessableEntity}; return true }), false},
		{"another method", g.ofAny(g.changeMethod), false},
		{"another host", g.ofGood(g.changeHost), false},
		{"of another site", g.ofGood(g.changeOrigin), false},
	}
}

// ofGood changes a good request. The change says what the answer must be then.
func (g *Generator) ofGood(change func(*Request) bool) func(*Operation) (Request, bool) {
	return func(o *Operation) (Request, bool) {
		r := g.good(o)
		return r, change(&r)
	}
}

// ofAny changes a good request, of which anything may come then.
func (g *Generator) ofAny(change func(*Request)) func(*Operation) (Request, bool) {
	return func(o *Operation) (Request, bool) {
		r := g.good(o)
		r.Statuses = nil
		change(&r)
		return r, true
	}
}

// parameterKinds break one parameter.
func (g *Generator) parameterKinds(o *Operation, p parameter) []kind {
	creates := o.body != nil
	var all []kind
	refused := []int{http.StatusUnprocessableEntity}
	_, breakable := g.bad(p.schema)
	switch p.in {
	case "path":
		return []kind{
			{"unknown " + p.name, g.ofGood(func(r *Request) bool {
				r.Path = g.path(o, map[string]string{p.name: "nothing_" + g.text(8)})
				r.Statuses = []int{http.StatusNotFound}
				return true
			}), false},
			{"hostile " + p.name, g.ofAny(func(r *Request) { r.Path = g.path(o, map[string]string{p.name: g.anyText()}) }), false},
		}
	case "header":
		if !breakable {
			return nil
		}
		return []kind{{"bad " + p.name, g.ofGood(func(r *Request) bool {
			value, _ := g.bad(p.schema)
			r.setHeader(p.name, asText(value))
			r.Statuses = refused
			return printable(asText(value)) == asText(value)
		}), false}}
	}
	if p.required {
		all = append(all, kind{"without " + p.name, g.ofGood(func(r *Request) bool {
			r.Query = slices.Delete(r.Query, r.query(p.name), r.query(p.name)+1)
			r.Statuses = refused
			return true
		}), false})
	}
	if breakable {
		all = append(all,
			kind{"bad " + p.name, g.ofGood(func(r *Request) bool {
				value, _ := g.bad(p.schema)
				r.setQuery(p.name, asText(value))
				r.Statuses = refused
				return true
			}), false},
			kind{"twice " + p.name + ", the last one bad", g.ofGood(func(r *Request) bool {
				value, _ := g.bad(p.schema)
				r.Query = append(r.Query, pair(p.name, asText(value)))
				r.Statuses = refused
				return true
			}), false})
	}
	if breakable && !slices.Contains(continues, p.name) { // a good one is that of a page
		all = append(all,
			kind{"twice " + p.name + ", the first one bad", g.ofGood(func(r *Request) bool {
				value, _ := g.bad(p.schema)
				if r.query(p.name) < 0 {
					r.Query = slices.DeleteFunc(r.Query, func(part string) bool { return strings.HasPrefix(part, periods[p.name]+"=") })
					r.Query = append(r.Query, pair(p.name, asText(g.goodValue(p.name, p.schema))))
				}
				r.Query = append([]string{pair(p.name, asText(value))}, r.Query...)
				return true
			}), creates})
	}
	if p.name == "provider" {
		all = append(all, kind{"unknown " + p.name, g.ofGood(func(r *Request) bool {
			r.setQuery(p.name, "nobody"+g.text(4))
			r.Statuses = []int{http.StatusBadRequest}
			return true
		}), false})
	}
	return append(all, kind{"hostile " + p.name, g.ofAny(func(r *Request) { r.setQuery(p.name, g.anyText()) }), creates})
}

// periods are parameters that limit each other, which no schema can say: a request
// with nothing wrong has one of the two.
var periods = map[string]string{"from": "to", "to": "from", "adjusted": "as_of_log", "as_of_log": "adjusted"}

// setQuery puts a parameter in place of those of that name.
func (r *Request) setQuery(name, value string) {
	r.Query = slices.DeleteFunc(r.Query, func(part string) bool { return strings.HasPrefix(part, name+"=") })
	r.Query = append(r.Query, pair(name, value))
}

func (r *Request) setHeader(name, value string) {
	r.Header = slices.DeleteFunc(r.Header, func(h [2]string) bool { return strings.EqualFold(h[0], name) })
	r.Header = append(r.Header, [2]string{name, value})
}

// printable leaves out what no header can hold, and net/http refuses before any
// route.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c == 0x7f {
			return -1
		}
		return c
	}, strings.ToValidUTF8(text, ""))
}

// turnTime makes a period that ends before it begins.
func (g *Generator) turnTime(r *Request) bool {
	r.setQuery("from", "2025-06-16T00:00:00Z")
	r.setQuery("to", pick(g.random, []string{"2025-06-16T00:00:00Z", "2025-06-15T23:59:59.999999Z", "1999-12-31T00:00:00+01:00"}))
	r.Statuses = []int{http.StatusUnprocessableEntity}
	return true
}

// oddHeaders change nothing about an answer but its form.
var oddHeaders = [][2]string{
	{"Accept", "text/csv"}, {"Accept", "text/csv;q=0.1, application/json;q=0.2"}, {"Accept", "*/*;q=NaN, text/*;q=1e400"}, {"Accept", ";;;,,,q=1"},
	{"Accept", "image/webp"}, {"Accept-Encoding", "gzip"}, {"Accept-Encoding", "gzip;q=0, br, zstd, *;q=-1"}, {"Accept-Language", "tlh"},
	{"Accept-Charset", "utf-7"}, {"If-None-Match", `"x", W/"y"`}, {"If-None-Match", "*"}, {"If-None-Match", `"`}, {"If-Match", `"x"`},
	{"If-Modified-Since", "Fri, 31 Dec 9999 23:59:59 GMT"}, {"If-Unmodified-Since", "Mon, 01 Jan 1990 00:00:00 GMT"}, {"Range", "bytes=0-0"},
	{"Range", "bytes=999999999-,-1,0-0"}, {"If-Range", `"x"`}, {"X-Forwarded-For", "203.0.113.9"}, {"X-Forwarded-Host", "evil.example"},
	{"X-Original-URL", "/metrics"}, {"X-HTTP-Method-Override", "DELETE"}, {"Forwarded", "for=203.0.113.9;host=evil.example"},
	{"Authorization", "Basic Og=="}, {"Cookie", "session=1; __Host-a=b"}, {"Referer", "http://evil.example/"}, {"User-Agent", ""},
	{"Upgrade", "h2c, websocket"}, {"Connection", "Upgrade"}, {"Connection", "close"}, {"TE", "trailers"}, {"Via", "1.1 evil.example"},
	{"Max-Forwards", "0"}, {"Traceparent", "00-zz"}, {"Content-Encoding", "identity"}, {"Expect", "100-continue"}, {"Date", "never"},
	{"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Access-Control-Request-Method", "DELETE"}, {"Keep-Alive", "timeout=99999"},
}

func (g *Generator) addOddHeaders(r *Request) bool {
	for range 1 + g.random.IntN(4) {
		if h := pick(g.random, oddHeaders); !r.has(h[0]) {
			r.Header = append(r.Header, h)
		}
	}
	return true
}

// addOddParameters adds what no route has. Pages and probes take it, even pages that
// refuse other things.
func (g *Generator) addOddParameters(r *Request) bool {
	for range 1 + g.random.IntN(5) {
		r.Query = append(r.Query, pick(g.random, []string{"x", "=", "=x", "x=", "q=%zz", "Symbol=a", "symbol%00=a", "symbol[]=a", "%", "a;b=1",
			"provider[$ne]=1", pair("x", g.anyText()), pair(g.anyText()+"x", "1")}))
	}
	if slices.Contains(r.Operation.Statuses(), http.StatusUnprocessableEntity) && strings.HasPrefix(r.Operation.Path, "/api/") {
		r.Statuses = []int{http.StatusUnprocessableEntity}
	}
	return true
}

// addHostileHeaders may well change the answer.
func (g *Generator) addHostileHeaders(r *Request) {
	names := []string{"Accept", "Accept-Encoding", "If-None-Match", "Idempotency-Key", "Origin", "Sec-Fetch-Site", "Content-Type",
		"X-" + strings.Repeat("a", 200), "Cookie", "Range", "Content-Language"}
	for range 1 + g.random.IntN(4) {
		value := printable(g.anyText())
		if g.random.IntN(10) == 0 {
			value = strings.Repeat(value+",", 1+5_000/(len(value)+1))
		}
		r.setHeader(pick(g.random, names), value)
	}
}

func (g *Generator) garbleQuery(r *Request) {
	whole := strings.Join(r.Query, "&")
	switch g.random.IntN(6) {
	case 0:
		whole = strings.ReplaceAll(whole, "=", pick(g.random, []string{"", "==", "%3d", ":", "[]="}))
	case 1:
		whole = strings.ReplaceAll(whole, "&", pick(g.random, []string{";", "&&", "%26", "&amp;", "?"}))
	case 2:
		whole += "&" + url.QueryEscape(g.anyText()) + "=" + url.QueryEscape(g.anyText())
	case 3:
		whole += strings.Repeat("&symbol=A", g.random.IntN(2000))
	case 4:
		whole += "&limit=" + url.QueryEscape(strings.Repeat("9", g.random.IntN(20_000)))
	default:
		whole = strings.ToUpper(whole) + "%"
	}
	r.Query = []string{strings.ReplaceAll(whole, " ", "%20")}
}

func (g *Generator) garblePath(r *Request) {
	path := r.Path
	at := 1 // the first slash stays, or it would be no path
	if len(path) > 2 {
		at += g.random.IntN(len(path) - 1)
	}
	switch g.random.IntN(9) {
	case 0:
		path += strings.Repeat("/", 1+g.random.IntN(3))
	case 1:
		path = "/" + path
	case 2:
		path = "//evil.example" + path
	case 3:
		if at < len(path) {
			path = path[:at] + fmt.Sprintf("%%%02X", path[at]) + path[at+1:]
		}
	case 4:
		path = path[:at] + pick(g.random, []string{"/./", "/../", "/%2e%2e/", "%2f", "//", "%5c", "%00", ";a=b", "%c0%ae", "%ff"}) + path[at:]
	case 5:
		path = strings.ToUpper(path)
	case 6:
		path = "/" + url.PathEscape(g.anyText())
	case 7:
		path = path + "/" + strings.Repeat("a/", g.random.IntN(5000))
	default:
		path = "http://evil.example" + path
	}
	if strings.Contains(strings.ReplaceAll(path, "%25", ""), "%%") { // it cut an escape in two
		path = r.Path + "/"
	}
	r.Path = path
}

func (g *Generator) changeMethod(r *Request) {
	r.Method = pick(g.random, []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace,
		http.MethodConnect, "PROPFIND", "FOO", "get", "M-SEARCH", "!#$%&'*+-.^_`|~", strings.Repeat("A", 300)})
}

func (g *Generator) changeHost(r *Request) bool {
	r.setHeader("Host", pick(g.random, []string{"evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "2130706433",
		"0x7f000001", "127.1", strings.Repeat("a", 300) + ".example", "xn--nxasmq6b", "_"}))
	r.Statuses = []int{http.StatusMisdirectedRequest}
	return true
}

// changeOrigin asks as a browser does for a page that may not.
func (g *Generator) changeOrigin(r *Request) bool {
	header := pick(g.random, [][2]string{{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Origin", "http://localhost:1"},
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}})
	r.setHeader(header[0], header[1])
	r.Statuses = []int{http.StatusForbidden}
	return true
}

func (g *Generator) addBody(r *Request) bool {
	r.Body, r.Chunked = []byte(g.garbage(g.random.IntN(10_000))), g.random.IntN(2) == 0
	return true
}

// link follows a link of an earlier answer: there must be a page.
func (g *Generator) link(o *Operation) (Request, bool) {
	var links []Request
	for _, l := range g.learned.links {
		if l.Operation == o {
			links = append(links, l)
		}
	}
	if len(links) == 0 {
		return Request{}, false
	}
	r := pick(g.random, links)
	r.Statuses = []int{http.StatusOK}
	return r, true
}

// known asks again for what was answered: it may have changed, or not.
func (g *Generator) known(o *Operation) (Request, bool) {
	var etags []validator
	for _, v := range g.learned.etags {
		if v.request.Operation == o {
			etags = append(etags, v)
		}
	}
	if len(etags) == 0 {
		return Request{}, false
	}
	chosen := pick(g.random, etags)
	r := chosen.request
	r.Header = slices.Clone(r.Header)
	r.setHeader("If-None-Match", pick(g.random, []string{chosen.etag, "W/" + chosen.etag, `"x", ` + chosen.etag}))
	r.Statuses = o.goodStatuses()
	return r, true
}

// breakMessage sends what is no request of HTTP/1.1, or claims what is not so.
func (g *Generator) breakMessage(r *Request) bool {
	line := r.Method + " " + r.Target() + " HTTP/1.1\r\n"
	const host = "Host: localhost\r\n"
	type message struct {
		text   string
		status int
	}
	m := pick(g.random, []message{
		{r.Method + " " + r.Target() + "\r\n\r\n", http.StatusBadRequest},
		{r.Method + " " + r.Target() + " HTTP/3.0\r\n" + host + "\r\n", http.StatusHTTPVersionNotSupported},
		{r.Method + " " + r.Target() + " HTTP/1.1x\r\n" + host + "\r\n", http.StatusBadRequest},
		{line + "\r\n", http.StatusBadRequest},
		{line + host + host + "\r\n", http.StatusBadRequest},
		{line + "Host: a b\r\n\r\n", http.StatusBadRequest},
		{line + host + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", http.StatusBadRequest},
		{line + host + "Content-Length: -1\r\n\r\n", http.StatusBadRequest},
		{line + host + "Content-Length: +4\r\n\r\nabcd", http.StatusBadRequest},
		{line + host + "Content-Length: 99999999999999999999\r\n\r\n", http.StatusBadRequest},
		{line + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", http.StatusNotImplemented},
		{line + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", http.StatusBadRequest},
		{line + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", http.StatusNotImplemented},
		{line + host + "X: a\x00b\r\n\r\n", http.StatusBadRequest},
		{line + host + "X y: a\r\n\r\n", http.StatusBadRequest},
		{line + host + "X: a\rY: b\r\n\r\n", http.StatusBadRequest},
		{line + host + "Expect: 200-ok\r\n\r\n", http.StatusExpectationFailed},
		{line + host + "X: " + strings.Repeat("a", 80_000) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"GET /" + strings.Repeat("a", 80_000) + " HTTP/1.1\r\n" + host + "\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"G(T / HTTP/1.1\r\n" + host + "\r\n", http.StatusBadRequest},
		{"GET /%zz HTTP/1.1\r\n" + host + "\r\n", http.StatusBadRequest},
		{"GET /\x01 HTTP/1.1\r\n" + host + "\r\n", http.StatusBadRequest},
		{"GET relative HTTP/1.1\r\n" + host + "\r\n", http.StatusBadRequest},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", http.StatusBadRequest},
		{strings.ReplaceAll(g.garbage(200), "\n", "") + "\x00\r\n\r\n", http.StatusBadRequest},
	})
	r.Raw, r.Statuses = []byte(m.text), []int{m.status}
	return true
}
