package httpapi_test

import (
	"context"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/live"
)

// noLive streams nothing, and ends at once.
type noLive struct{}

func (noLive) Kinds() live.Kinds { return live.Kinds{Window: 5, MaxWindow: 1000} }

func (noLive) Open(_ context.Context, r live.Request) (httpapi.LiveStream, error) {
	if r.After != "" {
		return nil, live.ErrPosition
	}
	return ended{}, nil
}

func (noLive) Drain() {}

type ended struct{}

func (ended) ID() string    { return "AQ" }
func (ended) Passed() int64 { return 0 }
func (ended) Close()        {}

func (ended) Next(context.Context, <-chan time.Time) ([]live.Event, error) { return nil, live.ErrEnded }
