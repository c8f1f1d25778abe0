package pipelinetest

import (
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

// Clocked is the engine with another clock, that of time.Now. Inside a bubble of
// testing/synctest that one is virtual, and with it the claims, leases and
// budgets that hang on the database's clock.
func Clocked(e store.Engine) store.Engine { return clocked{e} }

type clocked struct{ store.Engine }

// NowMillis implements store.Engine: the time at which a statement is written
// down, which in a bubble is the time at which it runs.
func (clocked) NowMillis() string { return strconv.FormatInt(time.Now().UnixMilli(), 10) }
