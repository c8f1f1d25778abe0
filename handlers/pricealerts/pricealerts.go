// Package pricealerts publishes an event when a price crosses a threshold.
//
// An alert above a threshold fires by a price at it or above, once it is armed.
// Below the threshold, or where the alert says "again", at that price or below it,
// a price arms it, and firing disarms it. So it fires by crossing and not by being
// there: the first price of a symbol never fires, and a price that flutters around
// the threshold fires once for each time it was back. For an alert below, it is the
// other way round. Prices count in the order of the log; one whose event time is
// before that of a price that was there already does not.
//
// Each crossing is one event, no matter which process dies, or when: what is armed changes
// in the transaction that puts the event into the outbox.
package pricealerts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "price-alerts"

// Settings of the handler.
type Settings struct {
	Alerts []string `mapstructure:"alerts" doc:"what to watch, each [provider/]SYMBOL above|below PRICE [again PRICE]"`
}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Publishes an event when a price crosses a threshold.",
		Consumes: schema.PriceTypes(),
		Produces: []schema.EventType{PriceAlerted{}.EventType()},
		Settings: Settings{},
		Optional: true,
		New:      New,
	})
}

// New makes the handler.
func New(env pipeline.Env) (pipeline.Handler, error) {
	var settings Settings
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	h := &handler{}
	var errs []error
	seen := map[string]bool{}
	for _, text := range settings.Alerts {
		a, err := parseAlert(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("alerts: %w", err))
		case seen[a.String()]:
			errs = append(errs, fmt.Errorf("alerts: %q is there twice", a))
		}
		seen[a.String()] = true
		h.alerts = append(h.alerts, a)
	}
	return h, errors.Join(errs...)
}

type handler struct{ alerts []alert }

var (
	_ pipeline.Handler    = (*handler)(nil)
	_ pipeline.DataKeeper = (*handler)(nil)
)

// Tables implements pipeline.TableOwner.
func (*handler) Tables() []string {
	return []string{`CREATE TABLE IF NOT EXISTS price_alerts (
		alert_key {text} PRIMARY KEY,
		armed     {int}  NOT NULL,
		newest    {time} NOT NULL
	) {keyed}`}
}

// DataTables implements pipeline.DataKeeper.
func (*handler) DataTables() []string { return []string{"price_alerts"} }

// DataOf implements pipeline.DataKeeper: a key ends with the market, and neither an alert nor
// a symbol holds a |.
func (*handler) DataOf(_ string, provider schema.Provider, symbol schema.Symbol) (condition string, args []any) {
	if symbol == "" {
		return `replace(alert_key, $1, '') <> alert_key`, []any{"|" + string(provider) + "/"}
	}
	end := "|" + schema.MarketKey(provider, symbol)
	return `replace(alert_key || '|', $1, '') <> alert_key || '|'`, []any{end + "|"}
}

// watched is an alert and the symbol that it watches.
type watched struct {
	alert  alert
	record *pipeline.Record
	key    string
}

// Handle shows each price to the alerts that watch it.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var all []watched
	states := map[string]state{}
	for i := range in {
		p, _ := schema.PriceOf(in[i].Event.Payload)
		for _, a := range h.alerts {
			if a.watches(p) {
				key := a.String() + "|" + p.Key() // no symbol holds a |
				all = append(all, watched{a, &in[i], key})
				states[key] = state{Key: key}
			}
		}
	}
	rows, err := store.SelectIn[state](ctx, tx, `SELECT alert_key, armed, newest FROM price_alerts WHERE alert_key IN (?)`,
		slices.Sorted(maps.Keys(states)))
	if err != nil {
		return nil, fmt.Errorf("loading alerts: %w", err)
	}
	for _, row := range rows {
		states[row.Key] = row
	}
	var events []schema.Event
	for _, w := range all {
		p, _ := schema.PriceOf(w.record.Event.Payload)
		after, fires := w.alert.see(states[w.key], p)
		states[w.key] = after
		if fires {
			events = append(events, w.record.Derive(PriceAlerted{Alert: w.alert.String(), Symbol: p.Symbol, Source: p.Source,
				Direction: w.alert.direction, Threshold: w.alert.threshold, Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}))
		}
	}
	return events, save(ctx, tx, states)
}

func save(ctx context.Context, tx *pipeline.Tx, states map[string]state) error {
	rows := store.Rows{Table: "price_alerts", Columns: []string{"alert_key", "armed", "newest"},
		Clause: "ON CONFLICT (alert_key) DO UPDATE SET armed = excluded.armed, newest = excluded.newest"}
	// In one order everywhere: two transactions never wait in a circle.
	for _, key := range slices.Sorted(maps.Keys(states)) {
		armed := 0
		if states[key].Armed {
			armed = 1
		}
		rows.Add(key, armed, states[key].Newest)
	}
	return tx.Insert(ctx, rows)
}
