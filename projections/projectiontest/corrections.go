package projectiontest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

// factID is the id that Events gives to the event of the fact with a number.
func factID(number int) string { return "fact-" + strconv.Itoa(number) }

// Events are the payloads as events, of which corrections by Corrected name the ids.
func Events(payloads ...schema.Payload) []schema.Event {
	events := make([]schema.Event, len(payloads))
	facts := 0
	for i, p := range payloads {
		id := fmt.Sprintf("event-%d", i)
		if _, isFact := schema.PriceOf(p); isFact {
			id = factID(facts)
			facts++
		}
		events[i] = schema.Event{ID: id, Source: "projectiontest", Payload: p}
	}
	return events
}

// Corrected draws corrections and retractions of some of the prices and bars of a log, at any
// places in it: after the fact and before, several of one, and some that name no fact.
func Corrected(t *rapid.T, log []schema.Payload) []schema.Payload {
	var facts []schema.PriceObserved
	for _, p := range log {
		if price, isFact := schema.PriceOf(p); isFact {
			facts = append(facts, price)
		}
	}
	if len(facts) == 0 {
		return log
	}
	log = slices.Clone(log)
	// rapid draws small numbers more often, and so the first facts.
	even := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed of corrections"), 0))
	for range even.IntN(3 + len(facts)/4) {
		number := even.IntN(len(facts))
		fact := facts[number]
		about := schema.Correction{FactID: factID(number), Symbol: fact.Symbol, Timestamp: fact.Timestamp, Source: fact.Source, Reason: "drawn"}
		switch even.IntN(16) {
		case 15:
			about.Timestamp = about.Timestamp.Add(1000)
		case 14:
			about.FactID = "none"
		}
		var c schema.Payload = schema.PriceRetracted{Correction: about, RetractedAt: fact.ReceivedAt}
		if even.IntN(3) > 0 {
			corrected := schema.PriceCorrected{Correction: about, Price: schema.MustDecimal(fmt.Sprintf("%d.%02d", even.IntN(2000), even.IntN(100))), CorrectedAt: fact.ReceivedAt}
			if even.IntN(2) == 0 {
				corrected.Size = schema.MustDecimal(strconv.Itoa(1 + even.IntN(50)))
			}
			c = corrected
		}
		log = slices.Insert(log, even.IntN(len(log)+1), c)
	}
	return log
}

// Final are the facts of a log of events as they are after their corrections, in the order
// of the log. It shares nothing with the folds.
func Final(events []schema.Event) []schema.Payload {
	var facts []schema.Payload
	for _, e := range events {
		if _, isFact := schema.PriceOf(e.Payload); !isFact {
			continue
		}
		fact, retracted := e.Payload, false
		for _, other := range events { // the last one counts
			switch c := other.Payload.(type) {
			case schema.PriceCorrected:
				if names(c.Correction, e) {
					fact, retracted = corrected(e.Payload, c), false
				}
			case schema.PriceRetracted:
				if names(c.Correction, e) {
					retracted = true
				}
			}
		}
		if !retracted {
			facts = append(facts, fact)
		}
	}
	return facts
}

func names(c schema.Correction, fact schema.Event) bool {
	p, _ := schema.PriceOf(fact.Payload)
	return c.FactID == fact.ID && c.Symbol == p.Symbol && c.Source == p.Source && c.Timestamp == p.Timestamp
}

func corrected(fact schema.Payload, c schema.PriceCorrected) schema.Payload {
	switch p := fact.(type) {
	case schema.PriceObserved:
		if p.Price = c.Price; !p.Size.IsZero() && !c.Size.IsZero() {
			p.Size = c.Size
		}
		return p
	case schema.BarObserved:
		p.Price, p.Close = c.Price, c.Price
		if Rat(p.High).Cmp(Rat(c.Price)) < 0 {
			p.High = c.Price
		}
		if Rat(p.Low).Cmp(Rat(c.Price)) > 0 {
			p.Low = c.Price
		}
		return p
	}
	return fact
}
