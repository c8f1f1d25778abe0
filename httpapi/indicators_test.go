package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
)

// bands is an indicator with a parameter and a column of each kind. Its points are
// those of past(5).
type bands struct{ err error }

func (bands) Indicator() projections.IndicatorDoc {
	return projections.IndicatorDoc{
		Doc: "Bands around the price.",
		Parameters: []projections.Parameter{
			{Name: "length", Doc: "How long.", Default: "1m", Choices: []string{"1m", "1h", "1d"}},
			{Name: "width", Doc: "How wide.", Default: "2", Low: 1, High: 9},
			{Name: "mean", Doc: "How the middle is found.", Default: "simple", Choices: []string{"simple"}, Convention: true},
		},
		Columns: []projections.Column{
			{Name: "upper", Doc: "Above.", Type: projections.DecimalColumn},
			{Name: "volume", Doc: "Traded.", Type: projections.DecimalColumn, Nullable: true},
			{Name: "count", Doc: "How many.", Type: projections.IntColumn},
			{Name: "since", Doc: "From when on.", Type: projections.TimeColumn},
			{Name: "state", Doc: "How it is.", Type: projections.TextColumn},
		},
	}
}

func (b bands) Points(ctx context.Context, q projections.IndicatorQuery) ([]projections.Point, error) {
	if b.err != nil {
		return nil, b.err
	}
	prices, err := past(5).Prices(ctx, historyOf(q))
	points := make([]projections.Point, len(prices))
	for i, p := range prices {
		var volume any
		if p.ID%2 == 0 {
			volume = p.Price
		}
		points[i] = projections.Point{Place: p.Place(), Values: []any{p.Price, volume, p.ID, p.Timestamp, q.Parameters["length"] + q.Parameters["width"]}}
	}
	return points, err
}

const bandsPath = "/api/v1/indicators/bands"

func TestIndicator(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	w := get(t, api, bandsPath+"?symbol=aapl&limit=2")
	expect(t, w, http.StatusOK, `{"items":[`+
		`{"symbol":"AAPL","provider":"finnhub","length":"1m","width":"2","timestamp":"2025-06-15T14:30:05.000000Z","upper":0.000000000000000005,"volume":null,"count":5,"since":"2025-06-15T14:30:05.000000Z","state":"1m2"},`+
		`{"symbol":"AAPL","provider":"finnhub","length":"1m","width":"2","timestamp":"2025-06-15T14:30:04.000000Z","upper":0.000000000000000004,"volume":0.000000000000000004,"count":4,"since":"2025-06-15T14:30:04.000000Z","state":"1m2"}],`+
		`"next_cursor":"`+nextCursor(t, w.Body.Bytes())+`"}`)
	if link := w.Header().Get("Link"); !strings.Contains(link, `rel="next"`) {
		t.Errorf("Link is %q", link)
	}
	next := get(t, api, bandsPath+"?symbol=AAPL&limit=2&cursor="+nextCursor(t, w.Body.Bytes()))
	if !strings.Contains(next.Body.String(), `"count":3`) || strings.Contains(next.Body.String(), `"count":4`) {
		t.Errorf("the next page is %s", next.Body)
	}
	other := get(t, api, bandsPath+"?symbol=AAPL&length=1h&limit=2&cursor="+nextCursor(t, w.Body.Bytes()))
	if other.Code != http.StatusUnprocessableEntity {
		t.Errorf("a cursor of another length: %d", other.Code)
	}
	expect(t, get(t, api, bandsPath+"?symbol=AAPL&from=2025-06-15T14:30:05Z&length=1d&width=9", "Accept", "text/csv"), http.StatusOK,
		"symbol,provider,length,width,timestamp,upper,volume,count,since,state\r\nAAPL,finnhub,1d,9,2025-06-15T14:30:05.000000Z,0.000000000000000005,,5,2025-06-15T14:30:05.000000Z,1d9\r\n")
	expect(t, get(t, api, bandsPath+"?symbol=AAPL&from=2026-06-15T14:30:05Z"), http.StatusOK, `{"items":[]}`)
}

func nextCursor(t *testing.T, body []byte) string {
	t.Helper()
	var page struct {
		Next string `json:"next_cursor"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		t.Fatal(err)
	}
	return page.Next
}

func TestIndicatorRefusesWhatItDoesNotTake(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for query, want := range map[string]string{
		"":                          `{"detail":[{"type":"missing","loc":["query","symbol"],"msg":"Field required","input":null}]}`,
		"?symbol=A&length=2m":       `{"detail":[{"type":"literal_error","loc":["query","length"],"msg":"Input should be '1m', '1h' or '1d'","input":"2m","ctx":{"expected":"'1m', '1h' or '1d'"}}]}`,
		"?symbol=A&width=0":         `{"detail":[{"type":"greater_than_equal","loc":["query","width"],"msg":"Input should be greater than or equal to 1","input":"0","ctx":{"ge":1}}]}`,
		"?symbol=A&width=10":        `{"detail":[{"type":"less_than_equal","loc":["query","width"],"msg":"Input should be less than or equal to 9","input":"10","ctx":{"le":9}}]}`,
		"?symbol=A&width=wide":      `{"detail":[{"type":"int_parsing","loc":["query","width"],"msg":"Input should be a valid integer, unable to parse string as an integer","input":"wide"}]}`,
		"?symbol=A&cursor=nonsense": `{"detail":[{"type":"value_error","loc":["query","cursor"],"msg":"Value error, not a cursor of this list","input":"nonsense","ctx":{"error":"not a cursor of this list"}}]}`,
	} {
		expect(t, get(t, api, bandsPath+query), http.StatusUnprocessableEntity, want)
	}
	if w := get(t, api, bandsPath+"?symbol=A&provider=nobody"); w.Code != http.StatusBadRequest {
		t.Errorf("an unknown provider: %d", w.Code)
	}
	expect(t, get(t, api, "/api/v1/indicators/bends?symbol=A"), http.StatusNotFound, `{"detail":"Unknown indicator \"bends\"; did you mean \"bands\"? Known are bands"}`)
	none := newAPI(t, func(s *setup) { s.Indicators = nil })
	expect(t, get(t, none, "/api/v1/indicators/ema"), http.StatusNotFound, `{"detail":"Unknown indicator \"ema\"; there is none"}`)
}

func TestTheListOfIndicators(t *testing.T) {
	t.Parallel()
	off := projections.IndicatorDoc{Doc: "An average.", Columns: []projections.Column{{Name: "value", Doc: "It.", Type: projections.DecimalColumn}}}
	api := newAPI(t, func(s *setup) { s.SwitchedOff = map[string]projections.IndicatorDoc{"average": off} })
	expect(t, get(t, api, "/api/v1/indicators"), http.StatusOK, `{"items":[`+
		`{"name":"average","description":"An average.","on":false,"parameters":[],"values":[{"name":"value","description":"It.","type":"decimal"}]},`+
		`{"name":"bands","description":"Bands around the price.","on":true,"parameters":[`+
		`{"name":"length","description":"How long.","default":"1m","choices":["1m","1h","1d"]},`+
		`{"name":"width","description":"How wide.","default":"2","minimum":1,"maximum":9},`+
		`{"name":"mean","description":"How the middle is found.","default":"simple","choices":["simple"],"convention":true}],"values":[`+
		`{"name":"upper","description":"Above.","type":"decimal"},{"name":"volume","description":"Traded.","type":"decimal","nullable":true},`+
		`{"name":"count","description":"How many.","type":"int"},{"name":"since","description":"From when on.","type":"time"},`+
		`{"name":"state","description":"How it is.","type":"text"}]}]}`)
	expect(t, get(t, api, "/api/v1/indicators/average?symbol=A"), http.StatusNotFound,
		`{"detail":"Indicator \"average\" is switched off; start the service with PLUGINS=average, which may name several, separated by commas"}`)
	none := newAPI(t, func(s *setup) { s.Indicators = nil })
	expect(t, get(t, none, "/api/v1/indicators"), http.StatusOK, `{"items":[]}`)
}

func TestIndicatorThatFails(t *testing.T) {
	t.Parallel()
	for err, status := range map[error]int{projections.ErrUnavailable: 503, httpapi.ErrUnavailable: 503, errors.New("a fault"): 500} {
		api := newAPI(t, func(s *setup) {
			s.Indicators = map[string]httpapi.Indicator{"bands": bands{err}}
			s.Unavailable = func(err error) bool { return errors.Is(err, projections.ErrUnavailable) }
		})
		if w := get(t, api, bandsPath+"?symbol=A"); w.Code != status {
			t.Errorf("%v: %d, want %d", err, w.Code, status)
		}
	}
}

// badBands describes itself wrongly.
type badBands struct{ bands }

func (badBands) Indicator() projections.IndicatorDoc {
	return projections.IndicatorDoc{Columns: []projections.Column{{Name: "timestamp", Type: "float"}}}
}

func TestIndicatorsAreChecked(t *testing.T) {
	t.Parallel()
	ports := httpapi.Ports{Indicators: map[string]httpapi.Indicator{"bad": badBands{}}}
	err := ports.Validate()
	for _, want := range []string{"indicator bad", "without a Doc", `"timestamp"`, `no type "float"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
}

func TestDocumentDescribesIndicators(t *testing.T) {
	t.Parallel()
	w := get(t, newAPI(t, nil), "/openapi.json")
	var doc struct {
		Paths map[string]map[string]struct {
			Description string
			Parameters  []struct {
				Name   string
				Schema map[string]any
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	op := doc.Paths[bandsPath]["get"]
	if !strings.Contains(op.Description, "Bands around the price.") {
		t.Errorf("the description is %q", op.Description)
	}
	if len(op.Parameters) < 2 || op.Parameters[0].Name != "length" || op.Parameters[0].Schema["default"] != "1m" ||
		op.Parameters[1].Name != "width" || op.Parameters[1].Schema["maximum"] != 9.0 {
		t.Errorf("the parameters are %v", op.Parameters)
	}
	if doc.Paths["/api/v1/prices/latest"] == nil {
		t.Error("the rest of the document is gone")
	}
}

func historyOf(q projections.IndicatorQuery) processedprices.Query {
	return processedprices.Query{Provider: q.Provider, Symbol: q.Symbol, Behind: q.Behind, From: q.From, Limit: q.Limit}
}
