package simulated_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// What a history tells of is what the stream told of, trade by trade.
func TestHistoryIsThePastOfTheStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := simulated.New(simulated.Config{Seed: 7})
		require.NoError(t, err)
		const trades = 2500 // more than two pages
		var streamed []pipeline.StreamMessage
		enough := errors.New("enough")
		err = p.Stream(t.Context(), []schema.Symbol{"AAPL"}, func(m pipeline.StreamMessage) error {
			if streamed = append(streamed, m); len(streamed) == trades {
				return enough
			}
			return nil
		})
		require.ErrorIs(t, err, enough)
		price := func(raw schema.RawResponse) pipeline.Price {
			prices, err := p.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: simulated.Name, Symbol: "AAPL"}, RawResponse: raw})
			require.NoError(t, err)
			return prices[0]
		}
		r := pipeline.HistoryRequest{Symbol: "AAPL", From: price(streamed[0].RawResponse).Time, To: schema.NewTime(time.Now().Add(time.Hour))}
		var entries []pipeline.HistoryEntry
		pages := 0
		for {
			page, err := p.History(t.Context(), r)
			require.NoError(t, err)
			for _, entry := range page.Entries {
				if !r.From.After(entry.Time) {
					entries = append(entries, entry)
				}
			}
			if pages++; page.Next == "" {
				break
			}
			r.Cursor = page.Next
		}
		assert.Equal(t, 3, pages)
		require.Len(t, entries, trades, "none is in the future")
		for i, entry := range entries {
			require.Equal(t, streamed[i].ID, entry.ID)
			require.Equal(t, string(streamed[i].RawResponse), string(entry.RawResponse))
			require.Equal(t, price(entry.RawResponse).Time, entry.Time)
		}
	})
}

func TestFaultsOfAHistory(t *testing.T) {
	t.Parallel()
	faults, err := simulated.ParseFaults("FAIL=fail,HANG=hang,NOPE=unknown,BAD=garbage,BIG=too_large")
	require.NoError(t, err)
	p, err := simulated.New(simulated.Config{Faults: faults})
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for symbol, want := range map[schema.Symbol]schema.Code{"FAIL": schema.CodeUnavailable, "HANG": schema.CodeTimeout, "NOPE": schema.CodeUnknownSymbol,
		"BAD": schema.CodeBadResponse, "BIG": schema.CodeTooLarge, "": schema.CodeUnknownSymbol} {
		ctx := t.Context()
		if symbol == "HANG" {
			ctx = ended
		}
		_, err := p.History(ctx, pipeline.HistoryRequest{Symbol: symbol})
		var q *pipeline.QuoteError
		require.ErrorAs(t, err, &q, symbol)
		assert.Equal(t, want, q.Code, symbol)
	}
	_, err = p.History(t.Context(), pipeline.HistoryRequest{Symbol: "AAPL", Cursor: "x"})
	require.ErrorContains(t, err, "not a cursor")
}
