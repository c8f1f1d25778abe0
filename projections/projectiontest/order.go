package projectiontest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// orderSeed is that of the shuffled log.
const orderSeed = 17

// arrivals are the prices of the example logs, oldest first, and other orders in which they
// may come. Each price has a sequence of its own, so that their order is not the log's to
// decide.
func (s Suite) arrivals() (prices []schema.Payload, orders map[string][]int) {
	var all []schema.PriceObserved
	for i := range examples {
		for _, payload := range s.example(i) {
			if p, ok := payload.(schema.PriceObserved); ok {
				all = append(all, p)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b schema.PriceObserved) int { return a.Timestamp.Compare(b.Timestamp) })
	oldest := make([]int, len(all))
	for i := range all {
		all[i].Sequence = schema.Sequence(i + 1)
		prices, oldest[i] = append(prices, all[i]), i
	}
	newest, shuffled := slices.Clone(oldest), slices.Clone(oldest)
	slices.Reverse(newest)
	rand.New(rand.NewPCG(orderSeed, 0)).Shuffle(len(shuffled), func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
	return prices, map[string][]int{"newest first": newest, fmt.Sprintf("shuffled with seed %d", orderSeed): shuffled}
}

// order folds the same prices in several orders, a few at a time, and compares the points.
func (s Suite) order(t testing.TB) {
	prices, orders := s.arrivals()
	for _, name := range slices.Sorted(maps.Keys(orders)) {
		c := inPieces(shrink.New(prices), orders[name])
		shrink.Require(t, c, "the points depend on the order in which prices come: "+name, "oldest first", func(c shrink.Case) shrink.Result {
			oldest := byTime(c)
			if oldest == nil {
				return shrink.Result{}
			}
			want, err := s.pointsOf(t, inPieces(c, oldest))
			got, errOfOther := s.pointsOf(t, c)
			return shrink.Result{Want: want, Got: got, Err: cmp.Or(err, errOfOther)}
		})
	}
}

// inPieces delivers a case in an order, a few events at a time.
func inPieces(c shrink.Case, order []int) shrink.Case {
	c.Batches = nil
	for few := range slices.Chunk(order, 7) {
		c.Batches = append(c.Batches, shrink.Batch{Events: few})
	}
	return c
}

// byTime is the order of a case's prices by event time and sequence; nil where two of them
// have the same place, so that the log decides.
func byTime(c shrink.Case) []int {
	order := make([]int, len(c.Events))
	for i := range order {
		order[i] = i
	}
	tied := false
	slices.SortStableFunc(order, func(a, b int) int {
		p, q := c.Events[a].Payload.(schema.PriceObserved), c.Events[b].Payload.(schema.PriceObserved)
		n := cmp.Or(p.Timestamp.Compare(q.Timestamp), cmp.Compare(p.Sequence, q.Sequence))
		tied = tied || n == 0
		return n
	})
	if tied {
		return nil
	}
	return order
}

// pointsOf are all points that a case gives, with all parameters, as text.
func (s Suite) pointsOf(t testing.TB, c shrink.Case) ([]string, error) {
	asker := Ask(t, s.make(t))
	defer asker.close()
	var arrived []schema.Payload
	for _, b := range c.Batches {
		for _, e := range b.Events {
			arrived = append(arrived, c.Events[e].Payload)
		}
	}
	records := asker.rig.AppendAll(t, arrived...)
	for _, b := range c.Batches {
		if err := asker.stage.Deliver(records[:len(b.Events)]...); err != nil {
			return nil, err
		}
		records = records[len(b.Events):]
	}
	quotes := map[schema.Quote]bool{}
	for _, e := range c.Events {
		if p, isPrice := schema.PriceOf(e.Payload); isPrice {
			quotes[schema.Quote{Provider: p.Source, Symbol: p.Symbol}] = true
		}
	}
	var lines []string
	doc := asker.indicator.Indicator()
	for _, parameters := range Choices(doc) {
		for quote := range quotes {
			for _, point := range asker.Points(quote.Provider, quote.Symbol, parameters) {
				lines = append(lines, pointText(doc, quote, parameters, point))
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// pointText is a point without what says where in the log its price is.
func pointText(doc projections.IndicatorDoc, quote schema.Quote, parameters map[string]string, p projections.Point) string {
	text := fmt.Sprintf("%s at %s, sequence %d:", quote.Key(), p.Timestamp.Format(time.RFC3339Nano), p.Sequence)
	for i, column := range doc.Columns {
		text += fmt.Sprintf(" %s=%v", column.Name, p.Values[i])
	}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		text += fmt.Sprintf(" (%s=%s)", name, parameters[name])
	}
	return text
}
