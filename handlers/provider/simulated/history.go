package simulated

import (
	"context"
	"strconv"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

var _ pipeline.Historian = (*Provider)(nil)

// pageTrades is how many trades a page has.
const pageTrades = 1000

// History implements pipeline.Historian: the trades that a stream would have told of, of which
// none is in the future. The cursor is the number of the first trade of the page.
func (p *Provider) History(ctx context.Context, request pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	if err := request.Symbol.Validate(); err != nil {
		return pipeline.HistoryPage{}, &pipeline.QuoteError{Code: schema.CodeUnknownSymbol, Reason: "not a symbol", Err: err}
	}
	fault := p.faults[request.Symbol]
	if err := wait(ctx, p.latency+fault.Delay); err != nil {
		return pipeline.HistoryPage{}, err
	}
	if fault.Kind == Unknown {
		return pipeline.HistoryPage{}, pipeline.Quotef(schema.CodeUnknownSymbol, "the simulated market has no %s", request.Symbol)
	}
	if fault.Kind != "" && fault.Kind != Late {
		if _, err := fault.answer(ctx, request.Symbol, schema.NewTime(p.clock())); err != nil {
			return pipeline.HistoryPage{}, err
		}
		return pipeline.HistoryPage{}, pipeline.Quotef(schema.CodeBadResponse, "told to answer what cannot be read")
	}
	first := floorDiv(request.From.UnixMicro(), p.walk.period)
	if request.Cursor != "" {
		var err error
		if first, err = strconv.ParseInt(request.Cursor, 10, 64); err != nil {
			return pipeline.HistoryPage{}, &pipeline.QuoteError{Code: schema.CodeInternal, Reason: "not a cursor of this provider", Err: err}
		}
	}
	end := request.To
	if now := schema.NewTime(p.clock()); end.After(now) {
		end = now
	}
	var page pipeline.HistoryPage
	for number := first; number < first+pageTrades; number++ {
		t := p.walk.trade(request.Symbol, number)
		at := schema.NewTime(t.at)
		if at.After(end) {
			return page, nil
		}
		raw, err := t.encode()
		if err != nil {
			return pipeline.HistoryPage{}, err
		}
		page.Entries = append(page.Entries, pipeline.HistoryEntry{ID: p.eventOf(t), RawResponse: raw, Time: at})
	}
	page.Next = strconv.FormatInt(first+pageTrades, 10)
	return page, nil
}
