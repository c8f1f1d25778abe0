package cmd

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/projections/latestprices"
)

// maxPriceGauges is the most symbols whose last prices /metrics may have.
const maxPriceGauges = 10_000

// gaugesTimeout is how long the query of a scrape may take.
const gaugesTimeout = 2 * time.Second

// priceGauges are the last prices of the first symbols by provider and symbol, read at
// each scrape. A price is a floating-point number there, as all is in Prometheus.
type priceGauges struct {
	reader latestprices.Reader
	most   int
	log    *slog.Logger
}

var (
	lastPriceGauge = prometheus.NewDesc("pricemill_last_price", "The last price of a symbol by event time, as a floating-point number.",
		[]string{"provider", "symbol"}, nil)
	lastTimeGauge = prometheus.NewDesc("pricemill_last_price_timestamp_seconds", "The event time of the last price of a symbol.",
		[]string{"provider", "symbol"}, nil)
)

// Describe implements prometheus.Collector.
func (g priceGauges) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- lastPriceGauge
	descriptions <- lastTimeGauge
}

// Collect implements prometheus.Collector. Without a database it gives none: the other
// metrics are the more needed then.
func (g priceGauges) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	symbols, err := g.reader.Symbols(ctx, latestprices.SymbolQuery{Limit: g.most})
	if err != nil {
		g.log.Warn("no last prices for /metrics", "error", err)
		return
	}
	for _, s := range symbols {
		price, err := strconv.ParseFloat(s.LastPrice.String(), 64)
		if err != nil { // no price is beyond a float
			continue
		}
		metrics <- prometheus.MustNewConstMetric(lastPriceGauge, prometheus.GaugeValue, price, string(s.Provider), string(s.Symbol))
		metrics <- prometheus.MustNewConstMetric(lastTimeGauge, prometheus.GaugeValue, float64(s.Last.UnixMicro())/1e6, string(s.Provider), string(s.Symbol))
	}
}
