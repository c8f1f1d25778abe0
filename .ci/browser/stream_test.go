package browser_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

// withStream puts a server in front of the service that answers the stream of events
// from a channel. The service answers everything else.
func withStream(t *testing.T, s *service, events <-chan string) string {
	t.Helper()
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/prices/stream" {
			proxy.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case event, more := <-events:
				if !more {
					return
				}
				fmt.Fprint(w, event)
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestStream: what the stream says is on the page at once and to the digit, a late
// price is not taken for the newest, and a stream that breaks is told.
func TestStream(t *testing.T) {
	s := startService(t)
	events := make(chan string)
	address := withStream(t, s, events)
	p := openTab(t, newBrowser(t), &service{t: t, url: address}, 1280, "light", true)
	p.open(address + "/")
	s.eventually("the page is live", func() bool { return value[string](p, "document.getElementById('connection').textContent") == "Live" })

	send := func(kind, data string) {
		select {
		case events <- "event: " + kind + "\nid: 1\ndata: " + data + "\n\n":
		case <-time.After(time.Minute):
			t.Fatal("the page does not read the stream")
		}
	}
	price := func(symbol, price string, at time.Time) string {
		return fmt.Sprintf(`{"symbol":%q,"provider":"simulated","price":%s,"timestamp":%q,"received_at":%q}`, symbol, price, at.UTC().Format(time.RFC3339Nano), at.UTC().Format(time.RFC3339Nano))
	}
	cell := func(symbol, name string) string {
		return value[string](p, fmt.Sprintf("document.querySelector('[data-symbol=%q] [data-live=%s]').textContent", symbol, name))
	}
	soon := time.Now().Add(time.Hour)
	// More digits than a floating-point number has.
	send("snapshot", `{"symbol":"ACME","provider":"simulated","simulated":true,"price":`+price("ACME", "123456789012345678.123456789012345678", soon)+`,"average":null}`)
	s.eventually("the price is that of the snapshot", func() bool { return cell("ACME", "price") == "123456789012345678.123456789012345678" })
	send("price", price("AT&T", "1.2500", soon))
	send("price", price("AT&T", "9.99", soon.Add(-30*time.Minute)))
	send("price", price("NOBODY", "1", soon))
	send("average", `{"symbol":"AT&T","window_size":5,"value":1.123456789,"timestamp":"2025-06-15T14:30:00Z"}`)
	send("average", `{"symbol":"AT&T","window_size":20,"value":7,"timestamp":"2025-06-15T14:30:00Z"}`)
	s.eventually("the average is that of the stream", func() bool { return cell("AT&T", "average") == "1.123457" })
	if got := cell("AT&T", "price"); got != "1.2500" {
		t.Errorf("the price is %s, want 1.2500: a late one is not the newest", got)
	}
	if got := cell("AT&T", "change"); got == "" || cell("AT&T", "age") != "now" {
		t.Errorf("the change is %q, the age %q", got, cell("AT&T", "age"))
	}
	close(events)
	s.eventually("the page tells that the stream broke", func() bool {
		return value[string](p, "document.getElementById('connection').dataset.state") != "live"
	})
}
