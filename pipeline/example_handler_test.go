package pipeline_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// LargeTrade is an event of one's own: a struct with the methods of schema.Payload.
type LargeTrade struct {
	Symbol schema.Symbol  `json:"symbol"`
	Size   schema.Decimal `json:"size"`
	At     schema.Time    `json:"at"`
}

func (LargeTrade) EventType() schema.EventType { return "example.trade.large.v1" }
func (LargeTrade) Topic() schema.Topic         { return "example-trades" }
func (t LargeTrade) Key() string               { return string(t.Symbol) }
func (t LargeTrade) OccurredAt() schema.Time   { return t.At }
func (t LargeTrade) Validate() error           { return t.Symbol.Validate() }

// largeTrades is a handler: it makes an event of each trade of 100 or more.
type largeTrades struct{}

func (largeTrades) Handle(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var out []schema.Event
	for i := range in {
		p := in[i].Event.Payload.(schema.PriceObserved)
		if p.Size.Cmp(schema.MustDecimal("100")) >= 0 {
			// Its id follows from the record: a second run gives the same event.
			out = append(out, in[i].Derive(LargeTrade{Symbol: p.Symbol, Size: p.Size, At: p.Timestamp}))
		}
	}
	return out, nil
}

func init() {
	schema.Register[LargeTrade]()
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name: "large-trades", Doc: "Publishes an event for each trade of 100 or more.",
		Consumes: []schema.EventType{schema.PriceObserved{}.EventType()},
		Produces: []schema.EventType{LargeTrade{}.EventType()},
		New:      func(pipeline.Env) (pipeline.Handler, error) { return largeTrades{}, nil },
	})
}

func ExampleHandler() {
	rig, remove, err := pipelinetest.Temporary() // a database and a log
	if err != nil {
		log.Fatal(err)
	}
	defer remove()
	var t pipelinetest.Panic // in a test: its *testing.T
	stage := rig.StartHandler(t, "large-trades", largeTrades{})
	defer stage.Close(t)

	at := schema.NewTime(time.Date(2025, 6, 16, 13, 30, 0, 0, time.UTC))
	trade := func(size string) schema.Payload {
		return schema.PriceObserved{Symbol: "AAPL", Source: "simulated", Price: schema.MustDecimal("187.25"),
			Size: schema.MustDecimal(size), Timestamp: at, ReceivedAt: at}
	}
	stage.Undo(1) // the batch is rolled back once, and applied again
	if err := stage.Deliver(rig.AppendAll(t, trade("20"), trade("500"))...); err != nil {
		log.Fatal(err)
	}
	for _, e := range rig.Events(t, LargeTrade{}.Topic()) {
		trade := e.Payload.(LargeTrade)
		fmt.Println(e.Source, trade.Symbol, trade.Size)
	}
	// Output: pricemill/large-trades AAPL 500
}
