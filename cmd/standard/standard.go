// Package standard is the modules of the program as it is: a main of your own imports
// it, and your plugins next to it.
package standard

import (
	_ "github.com/pricemill/pricemill/handlers/backfill"
	_ "github.com/pricemill/pricemill/handlers/fetch"
	_ "github.com/pricemill/pricemill/handlers/normalize"
	_ "github.com/pricemill/pricemill/handlers/pricealerts"
	_ "github.com/pricemill/pricemill/handlers/pricefiles"
	_ "github.com/pricemill/pricemill/handlers/provider/coinbase"
	_ "github.com/pricemill/pricemill/handlers/provider/csv"
	_ "github.com/pricemill/pricemill/handlers/provider/declared/shipped"
	_ "github.com/pricemill/pricemill/handlers/provider/finnhub"
	_ "github.com/pricemill/pricemill/handlers/provider/simulated"
	_ "github.com/pricemill/pricemill/handlers/provider/yahoo"
	_ "github.com/pricemill/pricemill/handlers/rawstore"
	_ "github.com/pricemill/pricemill/handlers/redisstream"
	_ "github.com/pricemill/pricemill/handlers/schedule"
	_ "github.com/pricemill/pricemill/handlers/stream"
	_ "github.com/pricemill/pricemill/handlers/webhook"
	_ "github.com/pricemill/pricemill/projections/adjustments"
	_ "github.com/pricemill/pricemill/projections/bollinger"
	_ "github.com/pricemill/pricemill/projections/candles"
	_ "github.com/pricemill/pricemill/projections/ema"
	_ "github.com/pricemill/pricemill/projections/instruments"
	_ "github.com/pricemill/pricemill/projections/jobs"
	_ "github.com/pricemill/pricemill/projections/latestprices"
	_ "github.com/pricemill/pricemill/projections/movingaverages"
	_ "github.com/pricemill/pricemill/projections/processedprices"
	_ "github.com/pricemill/pricemill/projections/requests"
	_ "github.com/pricemill/pricemill/projections/vwap"
)
