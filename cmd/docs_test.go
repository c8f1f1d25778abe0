package cmd_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openAPI is as much of the document as a page needs that sends its examples.
type openAPI struct {
	Paths      map[string]map[string]operation
	Components struct {
		Parameters map[string]parameter
	}
}

type operation struct {
	OperationID string `json:"operationId"`
	Parameters  []parameter
	RequestBody struct {
		Content map[string]struct{ Example json.RawMessage }
	} `json:"requestBody"`
	Responses map[string]struct {
		Links map[string]struct {
			OperationID string `json:"operationId"`
			Parameters  map[string]string
		}
	}
}

type parameter struct {
	Ref      string `json:"$ref"`
	Name, In string
	Required bool
	Example  any
	Schema   struct{ Default any }
}

// prefilled is what the page puts into the field of a parameter, if anything.
func (p parameter) prefilled() any {
	if p.Example != nil {
		return p.Example
	}
	return p.Schema.Default
}

// noneYet reports whether a path is about what a fresh service has none of: dead letters,
// prices that were corrected or adjusted, and requests whose ids are in no body.
func noneYet(path string) bool {
	return strings.HasPrefix(path, "/api/v1/dead-letter") || strings.HasPrefix(path, "/api/v1/corrections") || strings.HasPrefix(path, "/api/v1/adjustments") || strings.HasPrefix(path, "/api/v1/requests") || path == "/api/v1/retractions"
}

// TestTheExamplesOfTheDocument: on a fresh service, every request of /docs works as
// the page fills it in. What creates something comes first, and ids are taken from
// the answers that the document links to.
func TestTheExamplesOfTheDocument(t *testing.T) {
	t.Parallel()
	p := start(t, deadEnds(t)) // nothing here is asked over the network
	p.eventually("/readyz", http.StatusOK)
	var document openAPI
	require.NoError(t, json.Unmarshal([]byte(p.get("/openapi.json").body), &document))
	ids := map[string]map[string]string{} // by operation and parameter
	sent := 0
	for path, operations := range document.Paths {
		post, creates := operations["post"]
		if !creates || strings.Contains(path, "{") || noneYet(path) || strings.HasPrefix(path, "/dashboard/") {
			continue
		}
		example := post.RequestBody.Content["application/json"].Example
		require.NotEmpty(t, example, "POST %s has no example", path)
		got := p.send(document.request(t, p, http.MethodPost, path, post, nil, string(example)))
		want := http.StatusAccepted
		if _, answers := post.Responses["200"]; answers {
			want = http.StatusOK // it reads, with a body
		}
		require.Equal(t, want, got.status, "POST %s: %s", path, got.body)
		sent++
		for _, link := range post.Responses["202"].Links {
			ids[link.OperationID] = map[string]string{}
			for name, expression := range link.Parameters {
				member, found := strings.CutPrefix(expression, "$response.body#/")
				require.True(t, found, expression)
				ids[link.OperationID][name], _ = got.field(t, member).(string)
			}
		}
	}
	const latest = "/api/v1/prices/latest" // from which all others follow
	for _, path := range append([]string{latest}, slices.Sorted(maps.Keys(document.Paths))...) {
		get, gets := document.Paths[path]["get"]
		if !gets || noneYet(path) && strings.Contains(path, "{") {
			continue
		}
		request := document.request(t, p, http.MethodGet, path, get, ids[get.OperationID], "")
		target := strings.TrimPrefix(request.URL.String(), p.url)
		if get.OperationID == "streamPrices" { // it does not end: see push_test.go
			require.Equal(t, http.StatusOK, p.do(http.MethodHead, target, "").status, target)
			sent++
			continue
		}
		got := p.eventually(target, http.StatusOK)
		if strings.HasPrefix(got.body, `{"items":`) && !noneYet(path) {
			p.eventuallyHolds(target, `{"items":[{`) // an empty list shows nothing
		}
		sent++
	}
	assert.Greater(t, sent, 25)
}

// request fills in what the page does.
func (d openAPI) request(t *testing.T, p *program, method, path string, o operation, ids map[string]string, body string) *http.Request {
	t.Helper()
	query, header := url.Values{}, http.Header{}
	for _, of := range o.Parameters {
		if of.Ref != "" {
			of = d.Components.Parameters[of.Ref[strings.LastIndex(of.Ref, "/")+1:]]
		}
		value := of.prefilled()
		if id, linked := ids[of.Name]; linked {
			value = id
		}
		if value == nil {
			assert.False(t, of.Required, "%s %s: %s is required, and neither has an example nor is linked to", method, path, of.Name)
			continue
		}
		text, err := json.Marshal(value)
		require.NoError(t, err)
		switch text := strings.Trim(string(text), `"`); of.In {
		case "path":
			path = strings.ReplaceAll(path, "{"+of.Name+"}", url.PathEscape(text))
		case "query":
			query.Set(of.Name, text)
		case "header":
			header.Set(of.Name, text)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), method, p.url+path+"?"+query.Encode(), strings.NewReader(body))
	require.NoError(t, err)
	request.Header = header
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	return request
}
