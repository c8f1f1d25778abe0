package latestprices

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Price is the newest price of one symbol at one provider.
type Price struct {
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	Price    schema.Decimal  `db:"price"`
	// Timestamp is the event time: the provider's clock.
	Timestamp schema.Time `db:"timestamp"`
	// ReceivedAt is when we last heard from the provider that this is the
	// price, by our clock.
	ReceivedAt schema.Time `db:"received_at"`
}

// Reader answers queries.
type Reader struct {
	db     store.Querier
	latest *store.Loader[market, Price]
	kept   *projections.Kept[market, Price]
}

// market is what the table has one price of.
type market struct {
	provider schema.Provider
	symbol   schema.Symbol
}

func (m market) compare(n market) int {
	return cmp.Or(cmp.Compare(m.provider, n.provider), cmp.Compare(m.symbol, n.symbol))
}

// NewReader returns a reader of committed rows, for use by many goroutines.
func NewReader(db store.Committed) Reader {
	return Reader{db, store.NewLoader(db.ReadsAtOnce(), func(ctx context.Context, markets []market) (map[market]Price, error) {
		return latest(ctx, db, markets)
	}), projections.NewKept[market, Price](db, Name)}
}

// Latest returns the newest price, or projections.ErrNotFound.
func (r Reader) Latest(ctx context.Context, provider schema.Provider, symbol schema.Symbol) (Price, error) {
	found, err := r.kept.Load(ctx, []market{{provider, symbol}}, r.loadOne)
	if err == nil && found[0] == nil {
		err = sql.ErrNoRows
	}
	if err != nil {
		return Price{}, projections.QueryError("the latest price of "+schema.MarketKey(provider, symbol), err)
	}
	return *found[0], nil
}

// loadOne reads the price of one market, with those that others ask for.
func (r Reader) loadOne(ctx context.Context, markets []market) (map[market]Price, error) {
	price, err := r.latest.Load(ctx, markets[0])
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return map[market]Price{markets[0]: price}, err
}

// LatestOf returns the newest prices of symbols, in their order, all of one moment; nil where
// a symbol has none. They are not to be changed.
func (r Reader) LatestOf(ctx context.Context, provider schema.Provider, symbols []schema.Symbol) ([]*Price, error) {
	markets := make([]market, len(symbols))
	for i, symbol := range symbols {
		markets[i] = market{provider, symbol}
	}
	prices, err := r.kept.Load(ctx, markets, func(ctx context.Context, _ []market) (map[market]Price, error) {
		found, err := store.SelectIn[Price](ctx, r.db, `SELECT provider, symbol, price, timestamp, received_at FROM latest_prices
			WHERE provider = $1 AND symbol IN (?)`, store.Padded(symbols), provider)
		prices := make(map[market]Price, len(found))
		for _, price := range found {
			prices[market{provider, price.Symbol}] = price
		}
		return prices, err
	})
	if err != nil {
		return nil, projections.QueryError(fmt.Sprintf("the latest prices of %d symbols at %s", len(symbols), provider), err)
	}
	return prices, nil
}

func latest(ctx context.Context, db store.Querier, markets []market) (map[market]Price, error) {
	args := make([]any, 0, 2*len(markets))
	for _, m := range markets {
		args = append(args, m.provider, m.symbol)
	}
	var prices []Price
	err := db.Select(ctx, &prices, store.ForEach(`SELECT provider, symbol, price, timestamp, received_at FROM latest_prices
		WHERE provider = ? AND symbol = ?`, len(markets)), args...)
	if err != nil {
		return nil, err
	}
	known := make(map[market]Price, len(prices))
	for _, p := range prices {
		known[market{p.Provider, p.Symbol}] = p
	}
	return known, nil
}

// LastReceipts returns, for each provider with prices, when one was last received.
func (r Reader) LastReceipts(ctx context.Context) (map[schema.Provider]schema.Time, error) {
	var rows []struct {
		Provider   schema.Provider `db:"provider"`
		ReceivedAt schema.Time     `db:"received_at"`
	}
	if err := r.db.Select(ctx, &rows, `SELECT provider, MAX(received_at) AS received_at FROM latest_prices GROUP BY provider`); err != nil {
		return nil, projections.QueryError("the last receipts", err)
	}
	receipts := make(map[schema.Provider]schema.Time, len(rows))
	for _, row := range rows {
		receipts[row.Provider] = row.ReceivedAt
	}
	return receipts, nil
}

// holdersOf looks from each provider to the next: there are few of them, and many symbols.
const holdersOf = `WITH RECURSIVE known (provider) AS (
		SELECT MIN(provider) FROM latest_prices
		UNION ALL
		SELECT (SELECT MIN(l.provider) FROM latest_prices l WHERE l.provider > known.provider) FROM known WHERE known.provider IS NOT NULL
	) SELECT l.provider FROM known JOIN latest_prices l ON l.provider = known.provider AND l.symbol = $1`

// Holders returns those of some providers that have a price of a symbol, in no order. With
// nil it looks at all providers with prices, also those that this program no longer has.
func (r Reader) Holders(ctx context.Context, symbol schema.Symbol, among []schema.Provider) ([]schema.Provider, error) {
	if among == nil {
		var holders []schema.Provider
		if err := r.db.Select(ctx, &holders, holdersOf, symbol); err != nil {
			return nil, projections.QueryError("which providers have "+string(symbol), err)
		}
		return holders, nil
	}
	if len(among) == 0 {
		return nil, nil
	}
	markets := make([]market, len(among))
	for i, provider := range among {
		markets[i] = market{provider, symbol}
	}
	known, err := latest(ctx, r.db, markets)
	if err != nil {
		return nil, projections.QueryError("which providers have "+string(symbol), err)
	}
	holders := make([]schema.Provider, 0, len(known))
	for m := range known {
		holders = append(holders, m.provider)
	}
	return holders, nil
}

// Symbol is what is known of one symbol at one provider.
type Symbol struct {
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	// Prices is how many there are, and First and Last are the bounds of their
	// event times.
	Prices int64       `db:"prices"`
	First  schema.Time `db:"first_time"`
	Last   schema.Time `db:"timestamp"`
	// LastPrice is the price at Last.
	LastPrice schema.Decimal `db:"price"`
}

// SymbolQuery selects symbols. They are ordered by provider, then symbol.
type SymbolQuery struct {
	// Provider leaves only its symbols; empty leaves all.
	Provider schema.Provider
	// Symbol leaves only itself, at Provider; empty leaves all.
	Symbol schema.Symbol
	// AfterProvider and AfterSymbol are the last symbol that is not wanted any
	// more; empty begins with the first there is.
	AfterProvider schema.Provider
	AfterSymbol   schema.Symbol
	// Contains leaves the symbols that have this text in them, in upper or lower case;
	// empty leaves all.
	Contains string
	// Limit is how many at the most.
	Limit int
}

// escapeLike takes their meaning from characters of a pattern.
var escapeLike = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// Symbols lists the symbols of which there is a price.
func (r Reader) Symbols(ctx context.Context, q SymbolQuery) ([]Symbol, error) {
	const columns = `SELECT provider, symbol, prices, first_time, timestamp, price FROM latest_prices WHERE `
	var symbols []Symbol
	var err error
	switch {
	case q.Symbol != "":
		err = r.db.Select(ctx, &symbols, columns+`provider = $1 AND symbol = $2 AND prices > 0`, q.Provider, q.Symbol)
	case q.Contains != "":
		// Which no index helps with. The symbols of a service are thousands, not millions.
		err = r.db.Select(ctx, &symbols, columns+`($1 = '' OR provider = $1) AND (provider, symbol) > ($2, $3)
			AND UPPER(symbol) LIKE $4 ESCAPE '!' AND prices > 0 ORDER BY provider, symbol LIMIT $5`,
			q.Provider, q.AfterProvider, q.AfterSymbol, "%"+escapeLike.Replace(strings.ToUpper(q.Contains))+"%", q.Limit)
	case q.Provider == "":
		err = r.db.Select(ctx, &symbols, columns+`(provider, symbol) > ($1, $2) AND prices > 0
			ORDER BY provider, symbol LIMIT $3`, q.AfterProvider, q.AfterSymbol, q.Limit)
	default:
		err = r.db.Select(ctx, &symbols, columns+`provider = $1 AND symbol > $2 AND prices > 0
			ORDER BY symbol LIMIT $3`, q.Provider, q.AfterSymbol, q.Limit)
	}
	if err != nil {
		return nil, projections.QueryError("the symbols", err)
	}
	return symbols, nil
}
