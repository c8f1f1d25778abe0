package pipeline_test

import (
	"encoding/json"
	"fmt"
	"log"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// report is a plain Watermill handler function: it knows JSON, and nothing of pricemill.
// The event that it returns is the one of the example of Handler.
func report(msg *message.Message) ([]*message.Message, error) {
	var in struct {
		Symbol    string      `json:"symbol"`
		Price     json.Number `json:"price"`
		Timestamp string      `json:"timestamp"`
	}
	if err := json.Unmarshal(msg.Payload, &in); err != nil {
		return nil, err
	}
	out, err := json.Marshal(map[string]any{"symbol": in.Symbol, "size": in.Price, "at": in.Timestamp})
	return []*message.Message{message.NewMessage("any", out)}, err
}

func ExampleWatermill() {
	rig, remove, err := pipelinetest.Temporary()
	if err != nil {
		log.Fatal(err)
	}
	defer remove()
	var t pipelinetest.Panic
	produces := LargeTrade{}.EventType()
	stage := rig.Start(t, engine.StageSpec{Name: "report", Consumes: []schema.EventType{schema.PriceObserved{}.EventType()},
		Produces: []schema.EventType{produces}, Handler: pipeline.Watermill(report, produces)})
	defer stage.Close(t)

	at := schema.NewTime(time.Date(2025, 6, 16, 13, 30, 0, 0, time.UTC))
	stage.Undo(2) // what the function returns is written once
	err = stage.Deliver(rig.AppendAll(t, schema.PriceObserved{Symbol: "AAPL", Source: "simulated",
		Price: schema.MustDecimal("187.25"), Timestamp: at, ReceivedAt: at})...)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range rig.Events(t, LargeTrade{}.Topic()) {
		fmt.Println(e.Source, e.Payload.(LargeTrade).Size)
	}
	// Output: pricemill/report 187.25
}
