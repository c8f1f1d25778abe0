package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

func exampleStream(id string) httpapi.Stream {
	return httpapi.Stream{StreamID: id, Status: "active", Provider: "yahoo", Symbols: []schema.Symbol{"AAPL"},
		StartedAt: eventTime, OwnerAlive: true, Messages: 3}
}

func withStreams(known *streams, log *commands) func(*setup) {
	return func(s *setup) { s.Streams, s.Commands = known, log }
}

func TestPostStream(t *testing.T) {
	t.Parallel()
	log := &commands{}
	api := newAPI(t, func(s *setup) { s.Commands = log })
	w := serve(t, api, request(http.MethodPost, "/api/v1/streams", `{"provider":"yahoo_finance","symbols":["aapl","MSFT","AAPL"]}`))
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	var body struct {
		StreamID string `json:"stream_id"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
	assert.Regexp(t, `^stream_[a-z2-7]{8}$`, body.StreamID)
	assert.JSONEq(t, `{"stream_id":"`+body.StreamID+`","status":"accepted","config":{"symbols":["AAPL","MSFT"],"provider":"yahoo"}}`,
		w.Body.String())
	assert.Equal(t, "polling-jobs:3:42", w.Header().Get("X-Log-Position"))
	require.Len(t, log.all(), 1)
	event := log.all()[0].(schema.StreamStarted)
	require.NoError(t, event.Validate())
	assert.Equal(t, body.StreamID, event.StreamID)
	assert.Equal(t, []schema.Symbol{"AAPL", "MSFT"}, event.Symbols)
}

func TestPostStreamRefuses(t *testing.T) {
	t.Parallel()
	many := strings.TrimSuffix(strings.Repeat(`"A",`, 51), ",")
	for name, test := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"cannot stream":     {`{"provider":"finnhub","symbols":["A"]}`, 400, `{"detail":"Provider \"finnhub\" cannot stream; those that can are simulated, yahoo"}`},
		"default cannot":    {`{"symbols":["A"]}`, 400, `{"detail":"Provider \"finnhub\" cannot stream; those that can are simulated, yahoo"}`},
		"unknown":           {`{"provider":"nope","symbols":["A"]}`, 400, `{"detail":"Unknown provider \"nope\"; known are finnhub, simulated, yahoo, yahoo_finance"}`},
		"no symbols":        {`{"provider":"yahoo"}`, 422, `{"detail":[{"type":"missing","loc":["body","symbols"],"msg":"Field required","input":{"provider":"yahoo"}}]}`},
		"empty":             {`{"symbols":[]}`, 422, `{"detail":[{"type":"too_short","loc":["body","symbols"],"msg":"List should have at least 1 item after validation, not 0","input":[],"ctx":{"actual_length":0,"field_type":"List","min_length":1}}]}`},
		"too many":          {`{"symbols":[` + many + `]}`, 422, `{"detail":[{"type":"too_long","loc":["body","symbols"],"msg":"List should have at most 50 items after validation, not 51","input":[` + many + `],"ctx":{"actual_length":51,"field_type":"List","max_length":50}}]}`},
		"no string":         {`{"symbols":["A"],"provider":7}`, 422, `{"detail":[{"type":"string_type","loc":["body","provider"],"msg":"Input should be a valid string","input":7}]}`},
		"no body":           {``, 422, `{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]}`},
		"not UTF-8":         {"\xff", 400, `{"detail":"There was an error parsing the body"}`},
		"larger than 64 KB": {strings.Repeat(" ", 64<<10+1), 413, `{"detail":"Request body is larger than 65536 bytes"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &commands{}
			api := newAPI(t, func(s *setup) { s.Commands = log })
			expect(t, serve(t, api, request(http.MethodPost, "/api/v1/streams", test.body)), test.status, test.want)
			assert.Empty(t, log.all())
		})
	}
}

func TestNobodyCanStream(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Streamers = nil })
	expect(t, serve(t, api, request(http.MethodPost, "/api/v1/streams", `{"symbols":["A"]}`)),
		http.StatusBadRequest, `{"detail":"Provider \"finnhub\" cannot stream; none can"}`)
}

func TestGetStreams(t *testing.T) {
	t.Parallel()
	stopped := exampleStream("stream_b")
	stopped.Status, stopped.StoppedAt, stopped.OwnerAlive = "stopped", &eventTime, false
	stopped.LastMessageAt, stopped.LastError = &eventTime, &httpapi.StreamError{Reason: "the connection was cut off", Timestamp: eventTime}
	api := newAPI(t, withStreams(&streams{known: []httpapi.Stream{exampleStream("stream_a"), stopped}}, &commands{}))
	const a = `{"stream_id":"stream_a","status":"active","provider":"yahoo","symbols":["AAPL"],"started_at":"2025-06-15T14:30:00.000000Z",` +
		`"stopped_at":null,"owner_alive":true,"last_message_at":null,"messages":3,"gaps":0,"missed":0,"reconnects":0,"last_error":null}`
	const b = `{"stream_id":"stream_b","status":"stopped","provider":"yahoo","symbols":["AAPL"],"started_at":"2025-06-15T14:30:00.000000Z",` +
		`"stopped_at":"2025-06-15T14:30:00.000000Z","owner_alive":false,"last_message_at":"2025-06-15T14:30:00.000000Z","messages":3,"gaps":0,"missed":0,` +
		`"reconnects":0,"last_error":{"reason":"the connection was cut off","timestamp":"2025-06-15T14:30:00.000000Z"}}`
	expect(t, get(t, api, "/api/v1/streams"), http.StatusOK, `{"items":[`+a+`,`+b+`]}`)
	expect(t, get(t, api, "/api/v1/streams?limit=1"), http.StatusOK, `{"items":[`+a+`]}`)
	expect(t, get(t, api, "/api/v1/streams/stream_b"), http.StatusOK, b)
	for _, limit := range []string{"0", "1001", "x"} {
		assert.Equal(t, http.StatusUnprocessableEntity, get(t, api, "/api/v1/streams?limit="+limit).Code, limit)
	}
	none := newAPI(t, withStreams(&streams{}, &commands{}))
	expect(t, get(t, none, "/api/v1/streams"), http.StatusOK, `{"items":[]}`)
}

// A stream that was posted a moment ago is found; one that never was is not, and
// that is said only once all that was posted has arrived.
func TestAStreamOnItsWay(t *testing.T) {
	t.Parallel()
	known := &streams{arrives: []httpapi.Stream{exampleStream("stream_a")}}
	api := newAPI(t, withStreams(known, &commands{}))
	assert.Equal(t, http.StatusOK, get(t, api, "/api/v1/streams/stream_a").Code)
	assert.Equal(t, 1, known.settled)
	expect(t, get(t, api, "/api/v1/streams/stream_x"), http.StatusNotFound, `{"detail":"There is no stream \"stream_x\""}`)
	assert.Equal(t, http.StatusNotFound, get(t, api, "/api/v1/streams/%00").Code)
	assert.Equal(t, http.StatusNotFound, get(t, api, "/api/v1/streams/%ff").Code)
}

func TestDeleteStream(t *testing.T) {
	t.Parallel()
	stopped := exampleStream("stream_b")
	stopped.Status, stopped.StoppedAt = "stopped", &eventTime
	log := &commands{}
	api := newAPI(t, withStreams(&streams{known: []httpapi.Stream{exampleStream("stream_a"), stopped}}, log))
	remove := func(id string) (int, string) {
		w := serve(t, api, request(http.MethodDelete, "/api/v1/streams/"+id, ""))
		return w.Code, w.Body.String()
	}
	status, body := remove("stream_a")
	assert.Equal(t, http.StatusAccepted, status)
	assert.Equal(t, `{"stream_id":"stream_a","status":"accepted"}`, body)
	require.Len(t, log.all(), 1)
	assert.Equal(t, "stream_a", log.all()[0].(schema.StreamStopped).StreamID)
	status, body = remove("stream_b")
	assert.Equal(t, http.StatusConflict, status)
	assert.Equal(t, `{"detail":"Stream stream_b is stopped"}`, body)
	status, _ = remove("stream_x")
	assert.Equal(t, http.StatusNotFound, status)
	assert.Len(t, log.all(), 1)
}

func TestPatchStream(t *testing.T) {
	t.Parallel()
	stopped := exampleStream("stream_b")
	stopped.Status, stopped.StoppedAt = "stopped", &eventTime
	log := &commands{}
	api := newAPI(t, withStreams(&streams{known: []httpapi.Stream{exampleStream("stream_abc12345"), stopped}}, log))
	change := func(id, body string) *httptest.ResponseRecorder {
		return serve(t, api, request(http.MethodPatch, "/api/v1/streams/"+id, body))
	}
	w := change("stream_abc12345", `{"symbols":["msft","AAPL","MSFT"]}`)
	expect(t, w, http.StatusAccepted, `{"stream_id":"stream_abc12345","status":"accepted","config":{"symbols":["MSFT","AAPL"],"provider":"yahoo"}}`)
	assert.Equal(t, "polling-jobs:3:42", w.Header().Get("X-Log-Position"))
	require.Len(t, log.all(), 1)
	event := log.all()[0].(schema.StreamChanged)
	require.NoError(t, event.Validate())
	assert.Equal(t, "stream_abc12345", event.StreamID)
	assert.Equal(t, []schema.Symbol{"MSFT", "AAPL"}, event.Symbols)
	expect(t, change("stream_b", `{"symbols":["A"]}`), http.StatusConflict, `{"detail":"Stream stream_b is stopped"}`)
	expect(t, change("stream_x", `{"symbols":["A"]}`), http.StatusNotFound, `{"detail":"There is no stream \"stream_x\""}`)
	for _, body := range []string{`{}`, `{"symbols":[]}`, `{"symbols":["no,such"]}`, `{"symbols":"A"}`} {
		assert.Equal(t, http.StatusUnprocessableEntity, change("stream_abc12345", body).Code, body)
	}
	assert.Len(t, log.all(), 1)
}

func TestStreamsOfADatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	down := fmt.Errorf("reading: %w", httpapi.ErrUnavailable)
	for name, known := range map[string]*streams{
		"list and get": {known: []httpapi.Stream{exampleStream("stream_a")}, err: down},
		"settle":       {err: down},
	} {
		api := newAPI(t, withStreams(known, &commands{err: down}))
		assert.Equal(t, http.StatusServiceUnavailable, get(t, api, "/api/v1/streams").Code, name)
		assert.Equal(t, http.StatusServiceUnavailable, get(t, api, "/api/v1/streams/stream_a").Code, name)
		w := serve(t, api, request(http.MethodPost, "/api/v1/streams", `{"provider":"yahoo","symbols":["A"]}`))
		assert.Equal(t, http.StatusServiceUnavailable, w.Code, name)
	}
	api := newAPI(t, withStreams(&streams{known: []httpapi.Stream{exampleStream("stream_a")}}, &commands{err: errors.New("a fault of ours")}))
	w := serve(t, api, request(http.MethodDelete, "/api/v1/streams/stream_a", ""))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
}
