package coinbase

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

var _ pipeline.Historian = (*provider)(nil)

// pageTrades is how many trades a call asks for, the most that the service gives: some 130 KB.
const pageTrades = 1000

// maxTradeID bounds the ids of trades, so that no sum of them overflows.
const maxTradeID = 1 << 60

// History implements pipeline.Historian by
// https://docs.cdp.coinbase.com/exchange/reference/exchangerestapi_getproducttrades. The service
// gives the newest trades below an id, and knows nothing of times. So the first pages look for
// the id at which the span begins, by halving the ids from 1 to that of the newest trade, and
// hold no prices: some 20 calls for a billion trades. The others go from there to the end of
// the span, in the order of the trades.
func (p *provider) History(ctx context.Context, request pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	at, err := parseCursor(request.Cursor)
	if err != nil {
		return pipeline.HistoryPage{}, err
	}
	query := url.Values{"limit": {strconv.Itoa(pageTrades)}}
	if below := at.below(); below > 0 {
		query.Set("after", strconv.FormatInt(below, 10))
	}
	raw, err := p.client.Get(ctx, query, "products", string(request.Symbol), "trades")
	if err != nil {
		return pipeline.HistoryPage{}, err
	}
	trades, err := parseTrades(raw)
	if err != nil || (len(trades) == 0 && request.Cursor == "") {
		return pipeline.HistoryPage{}, err // none: the product was never traded
	}
	if !at.found {
		return pipeline.HistoryPage{Next: at.narrow(trades, request)}, nil
	}
	return at.page(trades, request), nil
}

// cursor is where a history is. Until the first trade of the span is found, its id is within
// low and high; then it is low.
type cursor struct {
	found     bool
	low, high int64
	last      int64 // the newest trade when the history began; 0 as long as it is not known
}

// parseCursor reads "find LOW HIGH LAST" or "at LOW LAST".
func parseCursor(text string) (cursor, error) {
	c := cursor{low: 1}
	var err error
	switch kind, rest, _ := strings.Cut(text, " "); kind {
	case "":
		return c, nil
	case "find":
		_, err = fmt.Sscanf(rest, "%d %d %d", &c.low, &c.high, &c.last)
	case "at":
		c.found = true
		_, err = fmt.Sscanf(rest, "%d %d", &c.low, &c.last)
	default:
		err = strconv.ErrSyntax
	}
	if err != nil || c.low < 1 || c.low > maxTradeID || c.high > maxTradeID || c.last < 1 || c.last > maxTradeID || (!c.found && c.high < c.low) {
		return c, &pipeline.QuoteError{Code: schema.CodeInternal, Reason: "not a cursor of this provider", Err: err}
	}
	return c, nil
}

func (c cursor) String() string {
	if c.found {
		return fmt.Sprintf("at %d %d", c.low, c.last)
	}
	return fmt.Sprintf("find %d %d %d", c.low, c.high, c.last)
}

// below is the id below which trades are wanted; 0 for the newest.
func (c cursor) below() int64 {
	switch {
	case c.found:
		return c.low + pageTrades
	case c.last == 0:
		return 0
	}
	return c.middle() + 1
}

func (c cursor) middle() int64 { return c.low + (c.high-c.low)/2 }

// narrow is the next cursor while the begin of the span is looked for; empty where all trades
// are older. trades are those up to the middle of the ids, in their order.
func (c cursor) narrow(trades []trade, request pipeline.HistoryRequest) string {
	if len(trades) == 0 { // no trade has an id as low as that
		c.low = c.middle() + 1
	} else {
		oldest, newest := trades[0], trades[len(trades)-1]
		if c.last == 0 {
			c.high, c.last = newest.ID, newest.ID
			if request.From.After(newest.Time) {
				return ""
			}
		}
		switch {
		case request.From.After(newest.Time): // the begin is after what came
			c.low = max(c.low, c.middle(), newest.ID) + 1
		case request.From.After(oldest.Time): // within it
			c.low, c.high = max(c.low, oldest.ID), min(c.high, newest.ID)
		default: // before it, or at its oldest trade
			c.high = min(c.high, oldest.ID)
		}
	}
	if c.high-c.low < pageTrades {
		c.found, c.low = true, min(c.low, c.high)
	}
	return c.String()
}

// page takes trades apart, which are in the order of their ids.
func (c cursor) page(trades []trade, request pipeline.HistoryRequest) pipeline.HistoryPage {
	var page pipeline.HistoryPage
	for _, t := range trades {
		if t.ID < c.low {
			continue // below the page, since there are fewer above
		}
		page.Entries = append(page.Entries, pipeline.HistoryEntry{ID: tradeEvent(request.Symbol, t.ID), RawResponse: t.raw, Time: t.Time})
	}
	next := c.low + pageTrades // past a page of ids that no trade has
	if n := len(page.Entries); n > 0 {
		next = trades[len(trades)-1].ID + 1
		if page.Entries[0].Time.After(request.To) {
			return page
		}
	}
	if next <= c.last {
		page.Next = cursor{found: true, low: next, last: c.last}.String()
	}
	return page
}

// trade is one of an answer.
type trade struct {
	raw  schema.RawResponse
	ID   int64       `json:"trade_id"`
	Time schema.Time `json:"time"`
}

// parseTrades reads an answer, and puts its trades in the order of their ids.
func parseTrades(raw schema.RawResponse) ([]trade, error) {
	var texts []json.RawMessage
	if err := payload.Decode(raw, &texts); err != nil {
		return nil, err
	}
	trades := make([]trade, len(texts))
	for i, text := range texts {
		trades[i].raw = schema.RawResponse(text)
		if err := payload.Decode(trades[i].raw, &trades[i]); err != nil {
			return nil, err
		}
		if err := payload.CheckTime(trades[i].Time); err != nil {
			return nil, err
		}
		if trades[i].ID < 1 || trades[i].ID > maxTradeID {
			return nil, pipeline.Quotef(schema.CodeBadResponse, "a trade without an id")
		}
	}
	slices.SortFunc(trades, func(a, b trade) int { return cmp.Compare(a.ID, b.ID) })
	return trades, nil
}
