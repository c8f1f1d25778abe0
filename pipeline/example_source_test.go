package pipeline_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// feed is a source: it makes an event of each line that another system writes. The event
// is the one of the example of Handler.
type feed struct {
	lines io.Reader
	// idle is called when there is nothing more to read.
	idle func()
}

// Run implements pipeline.Runner.
func (f feed) Run(ctx context.Context, emit pipeline.Emitter) error {
	lines := bufio.NewScanner(f.lines)
	for lines.Scan() {
		id, symbol, _ := strings.Cut(lines.Text(), " ")
		// The id is the one that the other system gave: a line that comes again is the
		// same event.
		err := emit.Append(ctx, []schema.Event{{ID: schema.DeriveID("feed", id), Source: "pricemill/feed",
			Payload: LargeTrade{Symbol: schema.Symbol(symbol), Size: schema.MustDecimal("100"),
				At: schema.NewTime(time.Date(2025, 6, 16, 13, 30, 0, 0, time.UTC))}}})
		if err != nil {
			return fmt.Errorf("appending line %s: %w", id, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the feed: %w", err)
	}
	f.idle()
	<-ctx.Done()
	return nil
}

func ExampleRunner() {
	rig, remove, err := pipelinetest.Temporary()
	if err != nil {
		log.Fatal(err)
	}
	defer remove()
	ctx, stop := context.WithCancel(context.Background())
	source := feed{lines: strings.NewReader("17 AAPL\n18 MSFT\n"), idle: stop}
	if err := source.Run(ctx, rig.Emitter()); err != nil {
		log.Fatal(err)
	}
	for _, r := range rig.Sent() {
		fmt.Println(r.Event.Payload.(LargeTrade).Symbol)
	}
	// Unordered output:
	// AAPL
	// MSFT
}
