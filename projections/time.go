package projections

import (
	"time"

	"github.com/pricemill/pricemill/schema"
)

// EndOfTime is the last instant that an event may name. Queries begin there
// that would otherwise have no upper bound, so that one text serves both.
var EndOfTime = schema.NewTime(time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC))
