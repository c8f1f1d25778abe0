package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/projections/processedprices"
)

const batch = "/api/v1/prices/history:batch"

func postBatch(t testing.TB, api http.Handler, series string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return serve(t, api, request(http.MethodPost, batch, `{"series":[`+series+`]}`, header...))
}

// batchAnswer is the answer to postBatch.
type batchAnswer struct {
	Series []struct {
		Symbol, Provider string
		Items            []struct{ Price json.Number }
		NextCursor       string `json:"next_cursor"`
		Error            *struct {
			Status int
			Detail string
			Errors []struct{ Loc []any }
		}
	}
}

func readBatch(t testing.TB, w *httptest.ResponseRecorder) (answer batchAnswer) {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestHistoryBatch: each series has the page that GET history gives, and the error of one does
// not fail the others.
func TestHistoryBatch(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices, s.Simulated = past(2), append(s.Simulated, "simulated") })
	const newest = `"price":0.000000000000000002,"timestamp":"2025-06-15T14:30:02.000000Z","received_at":"2025-06-15T14:30:02.000001Z"}`
	w := postBatch(t, api, `{"symbol":"aapl","from":"2025-06-15T14:30:02Z"},{"symbol":"MSFT","provider":"nowhere"},{"symbol":"A","provider":"yahoo_finance","from":null,"to":"2025-06-15T14:30:01Z"}`)
	expect(t, w, http.StatusOK, `{"series":[{"symbol":"AAPL","provider":"finnhub","items":[{"symbol":"AAPL","provider":"finnhub",`+newest+`]},`+
		`{"error":{"type":"about:blank","title":"Bad Request","status":400,"detail":"Unknown provider \"nowhere\"; known are finnhub, simulated, yahoo, yahoo_finance"}},`+
		`{"symbol":"A","provider":"yahoo","items":[]}]}`)
	for name, want := range map[string]string{"Cache-Control": "no-store", "ETag": "", "Pricemill-Simulated": "", "Vary": "Accept-Encoding"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
	if w := postBatch(t, api, `{"symbol":"A"},{"symbol":"A","provider":"simulated"}`); w.Header().Get("Pricemill-Simulated") != "true" {
		t.Errorf("simulated prices are not marked: %v", w.Header())
	}
}

// TestHistoryBatchContinues: each series by its own cursor, which GET history takes and gives.
func TestHistoryBatchContinues(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices, s.RateLimitPerMinute = past(5), -1 })
	first := readBatch(t, postBatch(t, api, `{"symbol":"A","limit":2},{"symbol":"A","limit":"3"},{"symbol":"A","limit":5}`)).Series
	if len(first[0].Items) != 2 || len(first[1].Items) != 3 || len(first[2].Items) != 5 || first[2].NextCursor != "" {
		t.Fatalf("%+v", first)
	}
	second := readBatch(t, postBatch(t, api, fmt.Sprintf(`{"symbol":"A","cursor":%q},{"symbol":"a","limit":1,"cursor":%q},{"symbol":"B","cursor":%q},{"symbol":"A","cursor":"?"}`,
		first[0].NextCursor, first[1].NextCursor, first[0].NextCursor))).Series
	if len(second[0].Items) != 3 || second[0].Items[0].Price.String() != "0.000000000000000003" || second[0].NextCursor != "" {
		t.Errorf("the first series continues with %+v", second[0])
	}
	if len(second[1].Items) != 1 || second[1].Items[0].Price.String() != "0.000000000000000002" || second[1].NextCursor == "" {
		t.Errorf("the second series continues with %+v", second[1])
	}
	for _, other := range second[2:] {
		if other.Error == nil || other.Error.Status != http.StatusUnprocessableEntity || !strings.Contains(other.Error.Detail, "not a cursor of this list") {
			t.Errorf("a cursor of another list: %+v", other)
		}
	}
	w := get(t, api, history+"?symbol=A&cursor="+first[0].NextCursor)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "0.000000000000000003") {
		t.Errorf("GET history with the cursor of a batch: %d %s", w.Code, w.Body)
	}
}

// TestHistoryBatchTellsTheFaultsOfSeries: where they are and what they are, and the other
// series is answered.
func TestHistoryBatchTellsTheFaultsOfSeries(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices, s.RateLimitPerMinute = past(1), -1 })
	for series, want := range map[string]string{
		`1`: "[body series 1]", `null`: "[body series 1]", `[]`: "[body series 1]", `{}`: "[body series 1 symbol]",
		`{"symbol":7}`: "[body series 1 symbol]", `{"symbol":"A","lmit":5}`: "[body series 1 lmit]",
		`{"symbol":"A","limit":0}`: "[body series 1 limit]", `{"symbol":"A","limit":1001}`: "[body series 1 limit]", `{"symbol":"A","limit":null}`: "[body series 1 limit]",
		`{"symbol":"A","from":"yesterday"}`: "[body series 1 from]", `{"symbol":"A","to":5}`: "[body series 1 to]",
		`{"symbol":"A","from":"2025-06-15T14:30:00Z","to":"2025-06-15T14:30:00Z"}`: "[body series 1 to]",
		`{"symbol":"A","provider":5}`: "[body series 1 provider]", `{"symbol":"A","cursor":5}`: "[body series 1 cursor]",
	} {
		got := readBatch(t, postBatch(t, api, `{"symbol":"A"},`+series)).Series
		if len(got) != 2 || len(got[0].Items) != 1 || got[0].Error != nil {
			t.Errorf("next to %s: %+v", series, got)
		}
		if fault := got[1].Error; fault == nil || fault.Status != http.StatusUnprocessableEntity || len(fault.Errors) == 0 || fmt.Sprint(fault.Errors[0].Loc) != want {
			t.Errorf("%s: %+v, want a fault at %s", series, got[1].Error, want)
		}
	}
}

// TestHistoryBatchIsRefused: what is wrong with all of it.
func TestHistoryBatchIsRefused(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.RateLimitPerMinute = -1 })
	for body, want := range map[string]struct {
		status int
		says   string
	}{
		``:                {http.StatusUnprocessableEntity, `"loc":["body"]`},
		`[]`:              {http.StatusUnprocessableEntity, `"loc":["body"]`},
		`{}`:              {http.StatusUnprocessableEntity, `"loc":["body","series"]`},
		`{"series":null}`: {http.StatusUnprocessableEntity, `"list_type"`},
		`{"series":{}}`:   {http.StatusUnprocessableEntity, `"list_type"`},
		`{"series":[]}`:   {http.StatusUnprocessableEntity, `"too_short"`},
		`{"series":[{}`:   {http.StatusUnprocessableEntity, `"json_invalid"`},
		`{"series":[` + strings.Repeat(`{"symbol":"A"},`, 100) + `{"symbol":"A"}]}`: {http.StatusUnprocessableEntity, `"too_long"`},
		strings.Repeat(" ", 64<<10) + `{}`:                                          {http.StatusRequestEntityTooLarge, ""},
	} {
		w := serve(t, api, request(http.MethodPost, batch, body))
		if w.Code != want.status || !strings.Contains(w.Body.String(), want.says) {
			t.Errorf("%.40s: %d %s, want %d and %s", body, w.Code, w.Body, want.status, want.says)
		}
	}
	if w := serve(t, api, request(http.MethodPost, batch+"?symbol=A", `{"series":[{"symbol":"A"}]}`)); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("with a parameter: %d %s", w.Code, w.Body)
	}
}

// batches counts the prices that are asked for, of which there are any number.
type batches struct {
	pastPrices
	rows int
}

func (b *batches) PricesOf(_ context.Context, queries []processedprices.Query) ([][]processedprices.Price, error) {
	pages := make([][]processedprices.Price, len(queries))
	for i, q := range queries {
		b.rows += q.Limit
		pages[i] = b.pastPrices[:q.Limit]
	}
	return pages, nil
}

// TestHistoryBatchIsBounded: an answer has at most 10,000 prices, whatever is asked for.
func TestHistoryBatchIsBounded(t *testing.T) {
	t.Parallel()
	known := &batches{pastPrices: past(1001)}
	api := newAPI(t, func(s *setup) { s.Prices, s.RateLimitPerMinute = known, -1 })
	rows, refused := 0, 0
	w := postBatch(t, api, strings.Repeat(`{"symbol":"A","limit":999},`, 99)+`{"symbol":"A","limit":10}`)
	for i, one := range readBatch(t, w).Series {
		rows += len(one.Items)
		if one.Error != nil {
			refused++
			if !strings.Contains(one.Error.Detail, "at most 10000 prices, and the series before this one leave 10 of them") {
				t.Errorf("series %d: %s", i, one.Error.Detail)
			}
		}
	}
	if rows != 10_000 || refused != 89 || known.rows != 10_000+11 {
		t.Errorf("%d prices of %d asked for, %d series refused", rows, known.rows, refused)
	}
	for _, encoding := range []string{"zstd", "gzip"} {
		packed := postBatch(t, api, strings.Repeat(`{"symbol":"A","limit":999},`, 99)+`{"symbol":"A","limit":10}`, "Accept-Encoding", encoding)
		if got := packed.Header().Get("Content-Encoding"); got != encoding || packed.Body.Len() > w.Body.Len()/4 {
			t.Errorf("%s: encoding %q, %d of %d bytes", encoding, got, packed.Body.Len(), w.Body.Len())
		}
		decoder, err := decoders[encoding](packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(decoder); err != nil || string(body) != w.Body.String() {
			t.Errorf("%s: %d other bytes, error %v", encoding, len(body), err)
		}
	}
}

// TestHistoryBatchNeedsToRead: it is a POST and changes nothing, so it is allowed where reads
// are.
func TestHistoryBatchNeedsToRead(t *testing.T) {
	t.Parallel()
	ask := func(change func(*setup), header ...string) int {
		r := request(http.MethodPost, batch, `{"series":[{"symbol":"A"}]}`, header...)
		r.RemoteAddr = "192.0.2.1:50000"
		return serve(t, newAPI(t, change), r).Code
	}
	withKeys := func(s *setup) { s.Keys = scoped() }
	for _, test := range []struct {
		change func(*setup)
		header []string
		want   int
	}{
		{nil, nil, http.StatusOK}, {withKeys, nil, http.StatusUnauthorized}, {withKeys, bearer("read"), http.StatusOK},
		{nil, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
	} {
		if got := ask(test.change, test.header...); got != test.want {
			t.Errorf("with %q: %d, want %d", test.header, got, test.want)
		}
	}
}
