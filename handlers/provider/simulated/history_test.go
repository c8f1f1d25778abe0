package simulated_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// What a history tells of is what the stream told of, trade by trade.
func TestHistoryIsThePastOfTheStream(t *testing.T) {
	t.Parallel()
	historian := func(testing.TB) pipeline.Historian {
		faults, err := simulated.ParseFaults("NOPE=unknown")
		require.NoError(t, err)
		p, err := simulated.New(simulated.Config{Seed: 7, Faults: faults})
		require.NoError(t, err)
		return p
	}
	h := providertest.History{Name: simulated.Name, Symbol: "AAPL", Unknown: "NOPE", Endless: true, New: historian}
	synctest.Test(t, func(t *testing.T) {
		const trades = 2500 // more than two pages
		p := historian(t).(*simulated.Provider)
		enough := errors.New("enough")
		err := p.Stream(t.Context(), []schema.Symbol{"AAPL"}, func(m pipeline.StreamMessage) error {
			prices, err := p.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: simulated.Name, Symbol: "AAPL"}, RawResponse: m.RawResponse})
			if err != nil {
				return err
			}
			h.Entries = append(h.Entries, pipeline.HistoryEntry{ID: m.ID, RawResponse: m.RawResponse, Time: prices[0].Time})
			if len(h.Entries) == trades {
				return enough
			}
			return nil
		})
		require.ErrorIs(t, err, enough)
		// None is in the future.
		r := pipeline.HistoryRequest{Symbol: "AAPL", From: h.Entries[trades-1].Time, To: schema.NewTime(time.Now().Add(time.Hour))}
		page, err := p.History(t.Context(), r)
		require.NoError(t, err)
		require.NotEmpty(t, page.Entries)
		assert.Equal(t, h.Entries[trades-1], page.Entries[len(page.Entries)-1])
		assert.Empty(t, page.Next)
	})
	providertest.RunHistory(t, h)
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
