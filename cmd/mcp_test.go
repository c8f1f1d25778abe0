package cmd_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
	"github.com/pricemill/pricemill/httpapi/apikeys"
)

// languageModel is the client of a program that runs a language model.
type languageModel struct {
	t       *testing.T
	session *mcp.ClientSession
}

func newModel(t *testing.T, p *program, env environment, commands bool) languageModel {
	t.Helper()
	server := cmd.MCPServer(env.lookup, p.url, commands)
	here, there := mcp.NewInMemoryTransports()
	serving, err := server.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), here, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close(); _ = serving.Wait() })
	return languageModel{t, session}
}

// call calls a tool, and returns the texts of its answer.
func (m languageModel) call(tool string, arguments map[string]any) (texts []string, failed bool) {
	m.t.Helper()
	result, err := m.session.CallTool(m.t.Context(), &mcp.CallToolParams{Name: tool, Arguments: arguments})
	require.NoError(m.t, err, tool)
	for _, content := range result.Content {
		texts = append(texts, content.(*mcp.TextContent).Text)
	}
	return texts, result.IsError
}

// answer is the JSON that a tool answers.
func (m languageModel) answer(tool string, arguments map[string]any) map[string]any {
	m.t.Helper()
	texts, failed := m.call(tool, arguments)
	require.False(m.t, failed, "%s: %q", tool, texts)
	var body map[string]any
	require.NoError(m.t, json.Unmarshal([]byte(texts[0]), &body), texts[0])
	return body
}

func (m languageModel) tools() []*mcp.Tool {
	m.t.Helper()
	listed, err := m.session.ListTools(m.t.Context(), nil)
	require.NoError(m.t, err)
	return listed.Tools
}

// TestToolsOfModels calls each tool as a model does, over a running service.
func TestToolsOfModels(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"PLUGINS": "ema"})
	m := newModel(t, p, environment{}, false)
	assert.Contains(t, m.session.InitializeResult().Instructions, "simulated")

	texts, failed := m.call("latest_price", map[string]any{"symbol": "AAPL", "max_age": 0})
	require.False(t, failed, texts)
	require.Len(t, texts, 2, "that prices are made up")
	assert.Contains(t, texts[1], "simulated prices")
	p.eventually("/api/v1/prices/moving-average?symbol=AAPL", http.StatusOK)
	p.eventually("/api/v1/indicators/ema?symbol=AAPL", http.StatusOK)
	called := []string{"latest_price"}
	for tool, arguments := range map[string]map[string]any{
		"known_prices":           {"symbols": []string{"AAPL", "NOPE"}},
		"price_history":          {"symbol": "AAPL", "from": "2001-01-01T00:00:00Z", "limit": 10},
		"moving_average":         {"symbol": "AAPL", "window": 5},
		"moving_average_history": {"symbol": "AAPL", "window": 3},
		"list_symbols":           {"provider": "simulated"},
		"list_indicators":        {},
		"indicator":              {"name": "ema", "symbol": "AAPL", "parameters": map[string]any{"period": "12"}},
		"list_providers":         {},
		"list_jobs":              {"limit": 10},
		"health":                 {},
	} {
		body := m.answer(tool, arguments)
		assert.NotEmpty(t, body, tool)
		called = append(called, tool)
	}
	assert.Equal(t, []any{"NOPE"}, m.answer("known_prices", map[string]any{"symbols": []string{"AAPL", "NOPE"}})["missing"])
	job := p.newJob(`{"symbols":["MSFT"],"interval":3600}`)
	assert.Equal(t, job, m.answer("get_job", map[string]any{"job_id": job})["job_id"])
	called = append(called, "get_job")

	var offered []string
	for _, tool := range m.tools() {
		offered = append(offered, tool.Name)
		assert.True(t, tool.Annotations.ReadOnlyHint, tool.Name)
		assert.Greater(t, len(tool.Description), 30, tool.Name)
	}
	assert.ElementsMatch(t, offered, called, "each is called, and there are no others")

	// What is wrong is said to the model.
	for tool, arguments := range map[string]map[string]any{
		"moving_average": {"symbol": "AAPL", "window": 5000}, "get_job": {"job_id": "poll_nothing1"}, "indicator": {"name": "emma", "symbol": "AAPL"},
		"latest_price": {"symbol": "AAPL", "provider": "nobody"}, "price_history": {"symbol": "../../metrics?"},
	} {
		texts, failed := m.call(tool, arguments)
		assert.True(t, failed, "%s: %q", tool, texts)
		assert.Contains(t, strings.Join(texts, " "), "the service answered 4", tool)
	}
}

// TestCommandsOfModels: a model changes jobs only where that is allowed, and the key does.
func TestCommandsOfModels(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	m := newModel(t, p, environment{}, true)
	names := func(m languageModel) (all []string) {
		for _, tool := range m.tools() {
			if !tool.Annotations.ReadOnlyHint {
				all = append(all, tool.Name)
			}
		}
		slices.Sort(all)
		return all
	}
	assert.Equal(t, []string{"create_job", "pause_job", "resume_job", "stop_job"}, names(m))
	assert.Empty(t, names(newModel(t, p, environment{}, false)))
	create := map[string]any{"symbols": []string{"AAPL"}, "interval": 3600, "idempotency_key": "once"}
	id := m.answer("create_job", create)["job_id"]
	assert.Equal(t, id, m.answer("create_job", create)["job_id"])
	for _, tool := range []string{"pause_job", "resume_job", "stop_job"} {
		assert.Equal(t, "accepted", m.answer(tool, map[string]any{"job_id": id})["status"], tool)
	}

	reader := p.newKey("model", apikeys.Read)
	p.awaitStatus("/version", "", http.StatusUnauthorized)
	texts, failed := m.call("list_jobs", nil)
	assert.True(t, failed)
	assert.Contains(t, texts[0], "PRICEMILL_API_KEY")
	m = newModel(t, p, environment{"PRICEMILL_API_KEY": reader}, true)
	m.answer("list_jobs", nil)
	texts, failed = m.call("create_job", create)
	assert.True(t, failed)
	assert.Contains(t, texts[0], "this needs command")
}

// newRemoteModel is a model that reaches the endpoint over HTTP, with headers of its own.
func newRemoteModel(t *testing.T, endpoint string, header http.Header) languageModel {
	t.Helper()
	transport := &mcp.StreamableClientTransport{Endpoint: endpoint, HTTPClient: &http.Client{Transport: withHeader(header)}}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), transport, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close() })
	return languageModel{t, session}
}

// withHeader adds headers to each request.
type withHeader http.Header

func (h withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range h {
		r.Header[name] = values
	}
	return http.DefaultTransport.RoundTrip(r)
}

// TestModelsOverHTTP: each caller has what their own key allows, and what a page of another
// site sends is refused.
func TestModelsOverHTTP(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	reader, loader := p.newKey("model", apikeys.Read), p.newKey("loader", apikeys.Command)
	p.awaitStatus("/version", "", http.StatusUnauthorized)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, exit := newLogs(), make(chan int, 1)
	lines, writer := io.Pipe()
	go log.follow(lines)
	env := environment{"LOG_FORMAT": "json", "PRICEMILL_API_KEY": reader}
	go func() {
		exit <- cmd.Main(ctx, []string{"mcp", "--url", p.url, "--listen", "127.0.0.1:0", "--allow-commands"}, env.lookup, io.Discard, writer)
		_ = writer.Close() // never fails
	}()
	endpoint := log.await(t, "listening")["url"].(string)

	create := map[string]any{"symbols": []string{"AAPL"}, "interval": 3600}
	m := newRemoteModel(t, endpoint, nil)
	m.answer("list_jobs", nil) // by the key of the settings
	texts, failed := m.call("create_job", create)
	assert.True(t, failed)
	assert.Contains(t, texts[0], "this needs command")
	m = newRemoteModel(t, endpoint, http.Header{"Authorization": {"Bearer " + loader}})
	assert.NotEmpty(t, m.answer("create_job", create)["job_id"])
	m = newRemoteModel(t, endpoint, http.Header{"Authorization": {"Bearer " + reader + "x"}})
	texts, failed = m.call("list_jobs", nil)
	assert.True(t, failed)
	assert.Contains(t, texts[0], "send an API key as Authorization: Bearer: the service answered 401")
	m = newRemoteModel(t, endpoint, http.Header{"X-Forwarded-For": {"192.0.2.1"}})
	_, failed = m.call("list_jobs", nil)
	assert.True(t, failed, "the key of the settings is for callers on this machine")

	for name, test := range map[string]struct {
		method, body string
		header       http.Header
		host         string
		status       int
	}{
		"a GET":                  {http.MethodGet, "", nil, "", http.StatusMethodNotAllowed},
		"another path":           {http.MethodPost, "{}", nil, "", http.StatusNotFound},
		"another host":           {http.MethodPost, "{}", nil, "evil.example", http.StatusMisdirectedRequest},
		"a page of another site": {http.MethodPost, "{}", http.Header{"Origin": {"https://evil.example"}}, "", http.StatusForbidden},
		"a long body":            {http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"` + strings.Repeat("a", 2<<20) + `"}`, nil, "", http.StatusRequestEntityTooLarge},
		"a batch":                {http.MethodPost, ` [{"jsonrpc":"2.0","id":1,"method":"tools/list"}]`, nil, "", http.StatusBadRequest},
		"no JSON":                {http.MethodPost, `no`, nil, "", http.StatusBadRequest},
	} {
		url := endpoint
		if name == "another path" {
			url += "x"
		}
		r, err := http.NewRequestWithContext(t.Context(), test.method, url, strings.NewReader(test.body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		for header, values := range test.header {
			r.Header[header] = values
		}
		r.Host = test.host
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		assert.Equal(t, test.status, response.StatusCode, name)
		require.NoError(t, response.Body.Close())
	}
	cancel()
	assert.Zero(t, <-exit, log)

	status, _, stderr := run(t, environment{}, "mcp", "--listen", "0.0.0.0:1")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "reachable from other machines")
}

// TestModelsElsewhere: while there is no key, who calls from another machine reads, and
// commands nothing.
func TestModelsElsewhere(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	handler := cmd.MCPHandler(cmd.MCPServer(environment{}.lookup, p.url, true))
	from := func(address string) languageModel {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = address
			handler.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		return newRemoteModel(t, server.URL+"/mcp", http.Header{"Forwarded": {}})
	}
	create := map[string]any{"symbols": []string{"AAPL"}, "interval": 3600}
	from("127.0.0.1:1").answer("create_job", create)
	elsewhere := from("192.0.2.1:1")
	elsewhere.answer("list_jobs", nil)
	texts, failed := elsewhere.call("create_job", create)
	assert.True(t, failed)
	assert.Contains(t, texts[0], "from the service's own machine only")

	// Who is elsewhere is limited as at the service itself, which sees this machine calling.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = "192.0.2.2:1"
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	counts := map[int]int{}
	for range 70 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		counts[response.StatusCode]++
	}
	assert.GreaterOrEqual(t, counts[http.StatusTooManyRequests], 5, "%v", counts)
	assert.GreaterOrEqual(t, counts[http.StatusOK], 60, "%v", counts)
}
