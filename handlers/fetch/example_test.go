package fetch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// quotes is a provider that asks a service over HTTP.
type quotes struct{ client *rest.Client }

// Quote asks, and returns the answer byte for byte.
func (q quotes) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	return q.client.Get(ctx, url.Values{"symbol": {string(symbol)}}, "quote")
}

// Normalize is pure: the same answer gives the same price in each replay.
func (quotes) Normalize(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	var answer struct {
		Price json.RawMessage `json:"price"` // text until it is a decimal
		Time  json.RawMessage `json:"time"`
	}
	if err := payload.Decode(fetched.RawResponse, &answer); err != nil {
		return nil, err
	}
	price, err := payload.Price(answer.Price)
	if err != nil {
		return nil, err
	}
	at, err := payload.Seconds(answer.Time)
	return []pipeline.Price{{Symbol: fetched.Symbol, Price: price, Time: at}}, err
}

// A provider asks a service, and reads prices from what it answered.
func Example_provider() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, `{"price":187.25,"time":1750080600}`)
	}))
	defer service.Close()
	client, err := rest.New(rest.Config{BaseURL: service.URL})
	if err != nil {
		log.Fatal(err)
	}
	var provider pipeline.Provider = quotes{client}

	answer, err := provider.Quote(context.Background(), "AAPL")
	if err != nil {
		log.Fatal(err)
	}
	received := schema.NewTime(time.Date(2025, 6, 16, 13, 30, 1, 0, time.UTC))
	prices, err := provider.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: "quotes", Symbol: "AAPL"},
		RawResponse: answer, ReceivedAt: received})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(prices[0].Symbol, prices[0].Price, prices[0].Time.Format(time.RFC3339))
	// Output: AAPL 187.25 2025-06-16T13:30:00Z
}
