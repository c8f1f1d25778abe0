package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// scriptedLive hands out streams that give what a test sends them.
type scriptedLive struct {
	noLive
	asked   chan live.Request
	events  chan []live.Event
	drained chan struct{}
}

func newScript() scriptedLive {
	return scriptedLive{asked: make(chan live.Request, 100), events: make(chan []live.Event), drained: make(chan struct{})}
}

func (s scriptedLive) Open(_ context.Context, r live.Request) (httpapi.LiveStream, error) {
	s.asked <- r
	if r.After == "nonsense" {
		return nil, fmt.Errorf("%w: its form is another", live.ErrPosition)
	}
	return scriptedStream{s}, nil
}

func (s scriptedLive) Drain() {
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

type scriptedStream struct{ script scriptedLive }

func (scriptedStream) ID() string    { return "place" }
func (scriptedStream) Passed() int64 { return 1_000_000 }
func (scriptedStream) Close()        {}

func (s scriptedStream) Next(ctx context.Context, tick <-chan time.Time) ([]live.Event, error) {
	select {
	case events := <-s.script.events:
		if events == nil {
			return nil, errors.New("the database is down")
		}
		return events, nil
	case <-tick:
		return nil, nil
	case <-s.script.drained:
		return nil, live.ErrEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listen answers over a real connection, with the limits of the program.
func listen(t *testing.T, change func(*setup)) (url string, api *httpapi.API) {
	t.Helper()
	api = newAPI(t, change)
	server, _ := httpapi.NewServer("", api, httpapi.ConnectionLimits{}, slog.New(slog.DiscardHandler))
	server.RegisterOnShutdown(api.Drain)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		assert.NoError(t, server.Shutdown(context.Background()))
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
		api.Close()
	})
	return "http://" + listener.Addr().String(), api
}

// open reads an event stream line by line, until the test ends.
func open(t *testing.T, url string, header ...string) (*http.Response, func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	lines := bufio.NewReader(response.Body)
	return response, func() string {
		line, err := lines.ReadString('\n')
		if err != nil {
			return "(end)"
		}
		return strings.TrimSuffix(line, "\n")
	}
}

func observedPrice(price string) latestprices.Price {
	return latestprices.Price{Provider: "simulated", Symbol: "AAPL", Price: schema.MustDecimal(price), Timestamp: eventTime, ReceivedAt: eventTime}
}

func event(name, id string, value any) live.Event {
	return live.Event{Name: name, ID: id, Data: &live.Data{Value: value}}
}

const pricesStream = "/api/v1/prices/stream?symbols=AAPL"

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	script := newScript()
	url, _ := listen(t, func(s *setup) {
		s.Live, s.DefaultProvider, s.Simulated = script, "simulated", []schema.Provider{"simulated"}
	})
	response, line := open(t, url+"/api/v1/prices/stream?symbols=aapl,MSFT,+AAPL&events=price,average:20&max_rate=7", "Last-Event-ID", "x1", "Origin", url)
	assert.Equal(t, http.StatusOK, response.StatusCode)
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Pricemill-Simulated": "true"} {
		assert.Equal(t, want, response.Header.Get(name), name)
	}
	asked := <-script.asked
	assert.Equal(t, []schema.Symbol{"AAPL", "MSFT"}, asked.Symbols)
	assert.Equal(t, "simulated", string(asked.Provider))
	assert.Equal(t, "x1", asked.After)
	assert.Equal(t, 7, asked.MaxRate)
	require.Len(t, asked.Kinds, 2)
	assert.Equal(t, "average:20", asked.Kinds[1].Text)

	assert.Equal(t, "retry: 2000", line())
	assert.Empty(t, line())
	average := movingaverages.Average{Provider: "simulated", Symbol: "AAPL", Window: 20, Value: schema.MustDecimal("2.5"), Timestamp: eventTime}
	point := live.Point{Provider: "simulated", Symbol: "AAPL", Doc: bands{}.Indicator(), Parameters: map[string]string{},
		Point: projections.Point{Place: projections.Place{Timestamp: eventTime}}}
	for _, p := range point.Doc.Parameters {
		point.Parameters[p.Name] = p.Default
	}
	for range point.Doc.Columns {
		point.Values = append(point.Values, schema.MustDecimal("1"))
	}
	script.events <- []live.Event{
		event("snapshot", "a", live.Snapshot{Provider: "simulated", Symbol: "AAPL", Parts: []live.SnapshotPart{{Name: "price", Value: observedPrice("1.50")}, {Name: "average:20"}}}),
		event("price", "b", observedPrice("2")), event("average", "c", average), event("bands", "d", point),
		event("missed", "f", live.Missed{From: "d", To: "f", Count: 3}), event("reset", "g", live.Reset{Reason: "why"})}
	at := eventTime.Text()
	price := func(p string) string {
		return `{"symbol":"AAPL","provider":"simulated","price":` + p + `,"timestamp":"` + at + `","received_at":"` + at + `"}`
	}
	for _, want := range [][3]string{
		{"snapshot", "a", `{"symbol":"AAPL","provider":"simulated","simulated":true,"price":` + price("1.5") + `,"average:20":null}`},
		{"price", "b", price("2")},
		{"average", "c", `{"symbol":"AAPL","window_size":20,"value":2.5,"timestamp":"` + at + `"}`},
		{"bands", "d", `{"symbol":"AAPL","provider":"simulated","length":"1m","width":"2","timestamp":"` + at + `","upper":1,"volume":1,"count":1,"since":1,"state":1}`},
		{"missed", "f", `{"from":"d","to":"f","count":3}`},
		{"reset", "g", `{"reason":"why"}`},
	} {
		assert.Equal(t, "event: "+want[0], line())
		assert.Equal(t, "id: "+want[1], line())
		data := line()
		assert.Equal(t, "data: "+want[2], data)
		assert.True(t, json.Valid([]byte(strings.TrimPrefix(data, "data: "))), data)
		assert.Empty(t, line())
	}
}

func TestStreamsAreNeverSilent(t *testing.T) {
	t.Parallel()
	script := newScript()
	url, _ := listen(t, func(s *setup) { s.Live, s.PushHeartbeat = script, time.Millisecond })
	_, line := open(t, url+pricesStream)
	line()
	line()
	// An id without data moves the client's position; the specification makes no event of it.
	for _, want := range []string{": heartbeat", "id: place", "", ": heartbeat"} {
		assert.Equal(t, want, line())
	}
}

func TestStreamsThatEndSayWhenToComeBack(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(scriptedLive, *httpapi.API){
		"a stop":  func(_ scriptedLive, api *httpapi.API) { api.Drain() },
		"a fault": func(s scriptedLive, _ *httpapi.API) { s.events <- nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := newScript()
			url, api := listen(t, func(s *setup) { s.Live = script })
			_, line := open(t, url+pricesStream)
			assert.Equal(t, "retry: 2000", line())
			line()
			end(script, api)
			assert.Regexp(t, `^retry: [1-5]\d{3}$`, line())
			assert.Empty(t, line())
			assert.Equal(t, "(end)", line())
		})
	}
}

func TestInvalidStreams(t *testing.T) {
	t.Parallel()
	script := newScript()
	api := newAPI(t, func(s *setup) { s.Live = script })
	many := strings.Repeat("A,", 250) + "A"
	for query, want := range map[string]string{
		"":                                    `"loc":["query","symbols"],"msg":"Field required"`,
		"symbols=":                            `"loc":["query","symbols",0]`,
		"symbols=AAPL,,MSFT":                  `"loc":["query","symbols",1]`,
		"symbols=" + many:                     `"max_length":250`,
		"symbols=AAPL&events=":                `"loc":["query","events",0]`,
		"symbols=AAPL&events=price,nothing":   `no such event: known are price, average`,
		"symbols=AAPL&events=average:1001":    `a window of 1 to 1000 prices`,
		"symbols=AAPL&events=price:1":         `price has no parameters`,
		"symbols=AAPL&max_rate=0":             `"loc":["query","max_rate"]`,
		"symbols=AAPL&max_rate=101":           `"loc":["query","max_rate"]`,
		"symbols=AAPL&last_event_id=nonsense": `"loc":["query","last_event_id"]`,
		"symbols=AAPL&since=1":                `"loc":["query","since"]`,
		"symbols=AAPL&events=" + strings.Repeat("price,", 16) + "price": `"max_length":16`,
	} {
		w := get(t, api, "/api/v1/prices/stream?"+query)
		assert.Equal(t, http.StatusUnprocessableEntity, w.Code, query)
		assert.Contains(t, w.Body.String(), want, query)
	}
	w := get(t, api, pricesStream, "Last-Event-ID", "nonsense")
	assert.Equal(t, http.StatusUnprocessableEntity, w.Code)
	assert.Contains(t, w.Body.String(), `"loc":["header","Last-Event-ID"]`)
	assert.Equal(t, http.StatusBadRequest, get(t, api, pricesStream+"&provider=nobody").Code)
}

// TestStreamsPerKey: a key has its own limit, from whatever address, this machine's too.
func TestStreamsPerKey(t *testing.T) {
	t.Parallel()
	script := newScript()
	_, api := listen(t, func(s *setup) {
		s.Live, s.Keys = script, newKeyring(apikeys.Key{ID: "one", Scope: apikeys.Read}, apikeys.Key{ID: "two", Scope: apikeys.Read})
		s.Push = httpapi.PushLimits{PerClient: 2}
	})
	var leave []func()
	ask := func(key, from string) int {
		ctx, cancel := context.WithCancel(t.Context())
		r := request(http.MethodGet, pricesStream, "").WithContext(ctx)
		r.RemoteAddr = from + ":1234"
		r.Header.Set("Authorization", "Bearer secret-of-"+key)
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			api.ServeHTTP(w, r)
		}()
		select {
		case <-script.asked:
			leave = append(leave, func() { cancel(); <-done })
			return http.StatusOK
		case <-done:
			cancel()
			return w.Code
		}
	}
	assert.Equal(t, http.StatusOK, ask("one", "203.0.113.1"))
	assert.Equal(t, http.StatusOK, ask("one", "127.0.0.1"))
	assert.Equal(t, http.StatusTooManyRequests, ask("one", "127.0.0.1"))
	assert.Equal(t, http.StatusTooManyRequests, ask("one", "203.0.113.2"))
	assert.Equal(t, http.StatusOK, ask("two", "203.0.113.1"))
	assert.Equal(t, http.StatusOK, ask("two", "203.0.113.1"))
	assert.Equal(t, http.StatusTooManyRequests, ask("two", "203.0.113.1"))
	leave[0]()
	assert.Equal(t, http.StatusOK, ask("one", "203.0.113.2"), "a place that was given up is free")
	for _, one := range leave[1:] {
		one()
	}
}

func TestStreamsPerClientAndInTotal(t *testing.T) {
	t.Parallel()
	script := newScript()
	_, api := listen(t, func(s *setup) { s.Live, s.Push = script, httpapi.PushLimits{Total: 3, PerClient: 2} })
	// recorders stand for clients beyond this machine.
	leave := map[string][]context.CancelFunc{}
	ask := func(from string) *httptest.ResponseRecorder {
		ctx, cancel := context.WithCancel(t.Context())
		r := request(http.MethodGet, pricesStream, "").WithContext(ctx)
		r.RemoteAddr = from + ":1234"
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			api.ServeHTTP(w, r)
		}()
		select {
		case <-script.asked:
			leave[from] = append(leave[from], func() { cancel(); <-done })
			return nil
		case <-done:
			cancel()
			checkContract(t, r, w)
			return w
		}
	}
	require.Nil(t, ask("203.0.113.1"))
	require.Nil(t, ask("203.0.113.1"))
	third := ask("203.0.113.1")
	require.NotNil(t, third)
	assert.Equal(t, http.StatusTooManyRequests, third.Code)
	assert.NotEmpty(t, third.Header().Get("Retry-After"))
	require.Nil(t, ask("203.0.113.2"))
	fourth := ask("203.0.113.3")
	require.NotNil(t, fourth)
	assert.Equal(t, http.StatusServiceUnavailable, fourth.Code)
	leave["203.0.113.1"][0]()
	require.Nil(t, ask("203.0.113.1"), "a place that was given up is free")
	for _, all := range leave {
		for _, one := range all {
			one()
		}
	}
}

func dialSocket(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(url, "http"), &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	script := newScript()
	url, api := listen(t, func(s *setup) { s.Live = script })
	conn := dialSocket(t, url+pricesStream+"&last_event_id=x2")
	assert.Equal(t, "x2", (<-script.asked).After)
	script.events <- []live.Event{event("price", "b", observedPrice("2")), event("missed", "c", live.Missed{From: "b", To: "c", Count: 1})}
	for _, want := range []string{"price", "missed"} {
		kind, text, err := conn.Read(t.Context())
		require.NoError(t, err)
		assert.Equal(t, websocket.MessageText, kind)
		var message struct {
			Event, ID string
			Data      json.RawMessage
		}
		require.NoError(t, json.Unmarshal(text, &message), string(text))
		assert.Equal(t, want, message.Event)
		assert.NotEmpty(t, message.ID)
		assert.NotEmpty(t, message.Data)
	}
	api.Drain()
	_, _, err := conn.Read(t.Context())
	assert.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), err)
	assert.ErrorContains(t, err, "connect again in ")
}

func TestWebSocketHeartbeat(t *testing.T) {
	t.Parallel()
	script := newScript()
	url, _ := listen(t, func(s *setup) { s.Live, s.PushHeartbeat = script, time.Millisecond })
	_, text, err := dialSocket(t, url+pricesStream).Read(t.Context())
	require.NoError(t, err)
	assert.JSONEq(t, `{"event":"heartbeat","id":"place"}`, string(text))
}

// TestWebSocketOfAnotherSite: no CORS keeps a page from connecting, and it could read all.
func TestWebSocketOfAnotherSite(t *testing.T) {
	t.Parallel()
	script := newScript()
	url, _ := listen(t, func(s *setup) { s.Live = script })
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	_, response, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(url, "http")+pricesStream,
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
	require.Error(t, err)
	assert.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestHandshakesThatAreNone(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	upgrade := []string{"Connection", "keep-alive, Upgrade", "Upgrade", "websocket"}
	for name, headers := range map[string][]string{
		"a short key":   {"Sec-WebSocket-Key", "c2hvcnQ=", "Sec-WebSocket-Version", "13"},
		"no base64":     {"Sec-WebSocket-Key", "!", "Sec-WebSocket-Version", "13"},
		"other version": {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version", "8"},
		"no version":    {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		w := get(t, api, pricesStream, append(headers, upgrade...)...)
		assert.Equal(t, http.StatusBadRequest, w.Code, name)
	}
	assert.Equal(t, http.StatusOK, get(t, api, pricesStream, upgrade...).Code, "without a key it is none")
}

func TestHeadOfAStream(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	r := request(http.MethodHead, pricesStream, "")
	newAPI(t, nil).ServeHTTP(w, r)
	checkContract(t, r, w)
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "text/event-stream", w.Header().Get("Content-Type"))
}
