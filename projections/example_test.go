package projections_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// highest is an indicator: the highest price of the day so far.
func highest() (projections.Indicator, error) {
	return projections.NewSeries(projections.Series[schema.Decimal]{
		Name: "highest", Version: 1, Doc: "The highest price of the day so far.",
		Columns: []projections.Column{{Name: "high", Doc: "The highest price.", Type: projections.DecimalColumn}},
		Session: func(p projections.SeriesPrice) string { return p.Timestamp.Format(time.DateOnly) },
		// Step is pure: no clock, no randomness, no state but the one before.
		Step: func(before schema.Decimal, p projections.SeriesPrice) (schema.Decimal, error) {
			if p.Price.Cmp(before) > 0 {
				return p.Price, nil
			}
			return before, nil
		},
		Point: func(at schema.Decimal, _ projections.SeriesPrice, _ map[string]string) []any { return []any{at} },
	})
}

func ExampleNewSeries() {
	indicator, err := highest()
	if err != nil {
		log.Fatal(err)
	}
	rig, remove, err := pipelinetest.Temporary() // a database and a log
	if err != nil {
		log.Fatal(err)
	}
	defer remove()
	var t pipelinetest.Panic // in a test: its *testing.T
	spec, err := projections.Open(context.Background(), rig.DB, indicator)
	if err != nil {
		log.Fatal(err)
	}
	stage := rig.Start(t, spec)
	defer stage.Close(t)

	price := func(hour int, text string) schema.Payload {
		at := schema.NewTime(time.Date(2025, 6, 16, hour, 0, 0, 0, time.UTC))
		return schema.PriceObserved{Symbol: "AAPL", Source: "simulated", Price: schema.MustDecimal(text), Timestamp: at, ReceivedAt: at}
	}
	// The price of 10:00 comes late, and changes the point of 11:00.
	if err := stage.Deliver(rig.AppendAll(t, price(9, "100"), price(11, "101"), price(10, "105"))...); err != nil {
		log.Fatal(err)
	}
	points, err := indicator.Points(context.Background(), rig.DB, projections.IndicatorQuery{Provider: "simulated", Symbol: "AAPL",
		Behind: projections.Newest, Limit: 10})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range points {
		fmt.Println(p.Timestamp.Format(time.TimeOnly), p.Values[0])
	}
	// Output:
	// 11:00:00 105
	// 10:00:00 105
	// 09:00:00 100
}
