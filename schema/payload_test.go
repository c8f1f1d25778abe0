package schema_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

func texts() *rapid.Generator[string] { return rapid.String() }

func ids() *rapid.Generator[string] { return rapid.StringMatching(`[a-z0-9_-]{1,40}`) }

// oddIDs draws whatever an id may be, where it may also be missing.
func oddIDs() *rapid.Generator[string] {
	printable := rapid.RuneFrom(nil, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Zs)
	return rapid.StringOfN(printable, 0, -1, schema.MaxJobID)
}

func reasons() *rapid.Generator[string] { return rapid.Map(texts(), schema.CutReason) }

func codes() *rapid.Generator[schema.Code] {
	return rapid.SampledFrom([]schema.Code{schema.CodeTimeout, schema.CodeBadPrice, schema.CodeInternal})
}

func providers() *rapid.Generator[schema.Provider] {
	return rapid.Map(rapid.StringMatching(`[a-z][a-z0-9_-]{0,31}`), func(s string) schema.Provider { return schema.Provider(s) })
}

func symbols() *rapid.Generator[schema.Symbol] {
	const pattern = `[A-Za-z0-9.^=_&$/币]([A-Za-z0-9 .:/=^&+_@#!安-]{0,30}[A-Za-z0-9.:/=^&+_@#!가-])?`
	return rapid.Map(rapid.StringMatching(pattern), func(s string) schema.Symbol { return schema.Symbol(s) })
}

// sizes may be absent.
func sizes() *rapid.Generator[schema.Decimal] {
	return rapid.OneOf(rapid.Just(schema.Decimal{}), rapid.Map(rapid.StringMatching(`[0-9]{1,18}\.[0-9]{0,17}[1-9]`), schema.MustDecimal))
}

// sequences may be absent.
func sequences() *rapid.Generator[schema.Sequence] {
	return rapid.OneOf(rapid.Just(schema.Sequence(0)), rapid.Map(rapid.Int64(), func(n int64) schema.Sequence { return schema.Sequence(n) }))
}

func prices() *rapid.Generator[schema.Decimal] {
	return rapid.Map(rapid.StringMatching(`-?[0-9]{1,18}\.[0-9]{0,17}[1-9]`), schema.MustDecimal)
}

// times draws what a payload may hold: the years 1000 to 9999.
func times() *rapid.Generator[schema.Time] {
	return rapid.Custom(func(t *rapid.T) schema.Time {
		const first, last = -30610224000, 253402300799
		return schema.NewTime(time.Unix(rapid.Int64Range(first, last).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")))
	})
}

func quotes() *rapid.Generator[schema.Quote] {
	return rapid.Custom(func(t *rapid.T) schema.Quote {
		return schema.Quote{Provider: providers().Draw(t, "provider"), Symbol: symbols().Draw(t, "symbol"), RequestID: ids().Draw(t, "request")}
	})
}

func answers() *rapid.Generator[schema.QuoteFetched] {
	raw := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 1, 200),
		rapid.Map(rapid.StringN(1, 200, -1), func(s string) []byte { return []byte(s) }))
	return rapid.Custom(func(t *rapid.T) schema.QuoteFetched {
		return schema.QuoteFetched{Quote: quotes().Draw(t, "quote"), RawResponse: raw.Draw(t, "raw"), ReceivedAt: times().Draw(t, "received")}
	})
}

func corrections() *rapid.Generator[schema.Correction] {
	return rapid.Custom(func(t *rapid.T) schema.Correction {
		return schema.Correction{FactID: ids().Draw(t, "fact"), Symbol: symbols().Draw(t, "symbol"), Timestamp: times().Draw(t, "time"),
			Source: providers().Draw(t, "source"), Reason: "because: " + schema.CutReason(rapid.StringN(0, 100, 300).Draw(t, "reason"))}
	})
}

// generators draws valid payloads of each type.
func generators() map[schema.EventType]*rapid.Generator[schema.Payload] {
	draw := rapid.Custom[schema.Payload]
	return map[schema.EventType]*rapid.Generator[schema.Payload]{
		"market.fetch.requested.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.FetchRequested{
				Quote: quotes().Draw(t, "quote"), JobID: oddIDs().Draw(t, "job"),
				RequestedAt: times().Draw(t, "requested"), Deadline: times().Draw(t, "deadline"),
			}
		}),
		"market.quote.fetched.v1": draw(func(t *rapid.T) schema.Payload { return answers().Draw(t, "answer") }),
		"market.quote.stored.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.QuoteStored{QuoteFetched: answers().Draw(t, "answer"), RawResponseID: ids().Draw(t, "row")}
		}),
		"market.price.observed.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PriceObserved{
				Symbol: symbols().Draw(t, "symbol"), Price: prices().Draw(t, "price"), Size: sizes().Draw(t, "size"),
				Timestamp: times().Draw(t, "time"), Sequence: sequences().Draw(t, "sequence"),
				Source: providers().Draw(t, "source"), RawResponseID: oddIDs().Draw(t, "row"),
				ReceivedAt: times().Draw(t, "received"), RequestID: oddIDs().Draw(t, "request"),
			}
		}),
		"market.bar.observed.v1": draw(func(t *rapid.T) schema.Payload {
			volume, adjusted := prices().Draw(t, "volume"), prices().Draw(t, "adjusted close")
			b := schema.BarObserved{
				Symbol: symbols().Draw(t, "symbol"), Price: prices().Draw(t, "price"), Source: providers().Draw(t, "provider"),
				Timestamp: times().Draw(t, "timestamp"), RawResponseID: ids().Draw(t, "row"), ReceivedAt: times().Draw(t, "received"),
				Bar: schema.Bar{OpenTime: times().Draw(t, "open time"), Open: prices().Draw(t, "open"), High: prices().Draw(t, "high"), Low: prices().Draw(t, "low")},
			}
			b.Close = b.Price
			if b.High.Cmp(b.Low) < 0 {
				b.High, b.Low = b.Low, b.High
			}
			if order := b.OpenTime.Compare(b.Timestamp); order > 0 {
				b.OpenTime, b.Timestamp = b.Timestamp, b.OpenTime
			} else if order == 0 {
				b.OpenTime, b.Timestamp = bar().OpenTime, bar().Timestamp
			}
			if rapid.Bool().Draw(t, "with a volume") && volume.Sign() >= 0 {
				b.Volume = &volume
			}
			if rapid.Bool().Draw(t, "with an adjusted close") {
				b.AdjustedClose = &adjusted
			}
			return b
		}),
		"market.price.corrected.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PriceCorrected{Correction: corrections().Draw(t, "correction"), Price: prices().Draw(t, "price"),
				Size: sizes().Draw(t, "size"), CorrectedAt: times().Draw(t, "corrected")}
		}),
		"log.gap.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.LogGap{FilledAt: times().Draw(t, "filled")}
		}),
		"market.price.retracted.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PriceRetracted{Correction: corrections().Draw(t, "correction"), RetractedAt: times().Draw(t, "retracted")}
		}),
		"market.price.added.v1": draw(func(t *rapid.T) schema.Payload {
			price := schema.PriceObserved{Symbol: symbols().Draw(t, "symbol"), Price: prices().Draw(t, "price"), Size: sizes().Draw(t, "size"),
				Timestamp: times().Draw(t, "time"), Sequence: sequences().Draw(t, "sequence"), Source: providers().Draw(t, "source"),
				RawResponseID: oddIDs().Draw(t, "row"), ReceivedAt: times().Draw(t, "received")}
			added := schema.PriceAdded{RenormalizationID: ids().Draw(t, "renormalization"), Price: &price}
			if rapid.Bool().Draw(t, "a bar") {
				b := bar()
				b.Symbol, b.Source = price.Symbol, price.Source
				added.Price, added.Bar = nil, &b
			}
			return added
		}),
		"market.adjustment.recorded.v1": draw(func(t *rapid.T) schema.Payload {
			a := schema.AdjustmentRecorded{AdjustmentID: ids().Draw(t, "adjustment"), Symbol: symbols().Draw(t, "symbol"), Source: providers().Draw(t, "source"),
				AdjustmentTerms: schema.AdjustmentTerms{EffectiveAt: times().Draw(t, "effective"), Kind: rapid.SampledFrom(schema.AdjustmentKinds).Draw(t, "kind"),
					Value: schema.MustDecimal(rapid.SampledFrom([]string{"4", "0.82", "0.000000000000000001", "999999999999999999"}).Draw(t, "value"))},
				Reason: "drawn", RecordedAt: times().Draw(t, "recorded")}
			switch a.Kind {
			case schema.SplitAdjustment:
				a.Per = sizes().Draw(t, "per")
			case schema.DividendAdjustment:
				a.Currency = rapid.SampledFrom([]string{"", "USD"}).Draw(t, "currency")
			case schema.FactorAdjustment:
			}
			return a
		}),
		"market.adjustment.retracted.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.AdjustmentRetracted{AdjustmentID: ids().Draw(t, "adjustment"), Symbol: symbols().Draw(t, "symbol"), Source: providers().Draw(t, "source"),
				Reason: "drawn", RetractedAt: times().Draw(t, "retracted")}
		}),
		"market.quote.failed.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.QuoteFailed{
				Quote: quotes().Draw(t, "quote"), Code: codes().Draw(t, "code"),
				Reason: reasons().Draw(t, "reason"), FailedAt: times().Draw(t, "failed"),
			}
		}),
		"market.quote.rejected.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.QuoteRejected{
				Quote: quotes().Draw(t, "quote"), RawResponseID: ids().Draw(t, "row"), Code: codes().Draw(t, "code"),
				Reason: reasons().Draw(t, "reason"), ReceivedAt: times().Draw(t, "received"),
			}
		}),
		"market.quote.unchanged.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.QuoteUnchanged{
				Quote: quotes().Draw(t, "quote"), RawResponseID: ids().Draw(t, "row"), Price: prices().Draw(t, "price"),
				Timestamp: times().Draw(t, "time"), ReceivedAt: times().Draw(t, "received"),
			}
		}),
		"polling.job.created.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PollingJobCreated{
				JobID: ids().Draw(t, "job"), Symbols: rapid.SliceOfN(symbols(), 1, schema.MaxJobSymbols).Draw(t, "symbols"),
				Interval: rapid.IntRange(1, schema.MaxPollingInterval).Draw(t, "interval"),
				Provider: providers().Draw(t, "provider"), CreatedAt: times().Draw(t, "created"),
			}
		}),
		"polling.job.ran.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PollingJobRan{JobID: ids().Draw(t, "job"), RanAt: times().Draw(t, "ran"), Slot: times().Draw(t, "slot")}
		}),
		"polling.job.paused.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PollingJobPaused{JobID: ids().Draw(t, "job"), PausedAt: times().Draw(t, "paused")}
		}),
		"polling.job.resumed.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PollingJobResumed{JobID: ids().Draw(t, "job"), ResumedAt: times().Draw(t, "resumed")}
		}),
		"polling.job.stopped.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.PollingJobStopped{JobID: ids().Draw(t, "job"), StoppedAt: times().Draw(t, "stopped")}
		}),
		"stream.started.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.StreamStarted{
				StreamID: ids().Draw(t, "stream"), Symbols: rapid.SliceOfN(symbols(), 1, schema.MaxStreamSymbols).Draw(t, "symbols"),
				Provider: providers().Draw(t, "provider"), StartedAt: times().Draw(t, "started"),
			}
		}),
		"stream.changed.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.StreamChanged{
				StreamID: ids().Draw(t, "stream"), Symbols: rapid.SliceOfN(symbols(), 1, schema.MaxStreamSymbols).Draw(t, "symbols"),
				ChangedAt: times().Draw(t, "changed")}
		}),
		"stream.stopped.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.StreamStopped{StreamID: ids().Draw(t, "stream"), StoppedAt: times().Draw(t, "stopped")}
		}),
		"backfill.started.v1": draw(func(t *rapid.T) schema.Payload {
			from, to := times().Draw(t, "from"), times().Draw(t, "to")
			if from.After(to) {
				from, to = to, from
			}
			return schema.BackfillStarted{
				BackfillID: ids().Draw(t, "backfill"), Provider: providers().Draw(t, "provider"), Symbol: symbols().Draw(t, "symbol"),
				From: from, To: to, StartedAt: times().Draw(t, "started"),
			}
		}),
		"backfill.stopped.v1": draw(func(t *rapid.T) schema.Payload {
			return schema.BackfillStopped{BackfillID: ids().Draw(t, "backfill"), StoppedAt: times().Draw(t, "stopped")}
		}),
		"data.deleted.v1": draw(func(t *rapid.T) schema.Payload {
			d := schema.DataDeleted{
				DeletionID: ids().Draw(t, "deletion"), Provider: providers().Draw(t, "provider"),
				Reason: "because: " + schema.CutReason(rapid.StringN(0, 100, 300).Draw(t, "reason")), RequestedBy: ids().Draw(t, "by"),
				Records: rapid.Int64Range(0, 1<<53).Draw(t, "records"), Rows: rapid.Int64Range(0, 1<<53).Draw(t, "rows"),
				BeganAt: times().Draw(t, "began"), DeletedAt: times().Draw(t, "deleted"),
			}
			if rapid.Bool().Draw(t, "on Kafka") {
				d.Topics = []schema.TopicLineage{{Name: schema.RawQuotes, TopicID: ids().Draw(t, "topic id"), Lineage: ids().Draw(t, "lineage")}}
			}
			if rapid.Bool().Draw(t, "of a symbol") {
				d.Symbol = symbols().Draw(t, "symbol")
			}
			return d
		}),
	}
}

func TestEveryEventTypeHasAGenerator(t *testing.T) {
	t.Parallel()
	assert.Equal(t, schema.EventTypes(), slices.Sorted(maps.Keys(generators())))
}

func TestPayloadsRoundTripAndFitTheirSchema(t *testing.T) {
	t.Parallel()
	for eventType, generator := range generators() {
		t.Run(string(eventType), func(t *testing.T) {
			t.Parallel()
			s := compiled(t, eventType)
			rapid.Check(t, func(t *rapid.T) {
				event := schema.Event{ID: "id", Source: "source", Payload: generator.Draw(t, "payload")}
				headers, value, err := event.Encode()
				require.NoError(t, err)
				require.NoError(t, fits(s, value), "%s", value)
				decoded, err := schema.DecodeEvent(headers, value)
				require.NoError(t, err)
				_, again, err := decoded.Encode()
				require.NoError(t, err)
				require.Equal(t, string(value), string(again))
				require.Equal(t, event.Payload.Key(), decoded.Payload.Key())
			})
		})
	}
}

// What the schema refuses in a payload that differs in one property from a
// valid one, decoding refuses too. (The converse does not hold: JSON Schema
// cannot count digits, and 60.0 is an integer to it.)
func TestDecodeRefusesWhatTheSchemaRefuses(t *testing.T) {
	t.Parallel()
	absent := json.RawMessage(nil)
	spoilt := []json.RawMessage{absent, json.RawMessage(`null`), json.RawMessage(`""`), json.RawMessage(`-1`),
		json.RawMessage(`0`), json.RawMessage(`[]`), json.RawMessage(`{}`), json.RawMessage(`true`),
		json.RawMessage(`1e18`), json.RawMessage(`3601`), json.RawMessage(`"no such thing!"`), json.RawMessage(`"2025-06-15"`),
		json.RawMessage(`["A","B","C","D","E","F","G","H","I","J","K"]`), json.RawMessage(`["half a line\n"]`),
		json.RawMessage(`"a\u0000b"`), json.RawMessage(`"` + strings.Repeat("x", 256) + `"`)}
	for eventType, generator := range generators() {
		t.Run(string(eventType), func(t *testing.T) {
			t.Parallel()
			s := compiled(t, eventType)
			headers := binaryHeaders(eventType)
			_, value, err := schema.Event{ID: "id", Source: "source", Payload: generator.Example(1)}.Encode()
			require.NoError(t, err)
			var properties map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(value, &properties))
			for name := range properties {
				refused := 0
				for _, bad := range spoilt {
					changed := maps.Clone(properties)
					changed[name] = bad
					if bad == nil {
						delete(changed, name)
					}
					text, err := json.Marshal(changed)
					require.NoError(t, err)
					// Absent, null and empty are one thing to Go where a
					// property is optional.
					if fits(s, text) == nil || string(bad) == "null" && !requiredBySchema(t, eventType, name) {
						continue
					}
					refused++
					_, err = schema.DecodeEvent(headers, text)
					assert.ErrorIs(t, err, schema.ErrPayload, "%s", text)
				}
				assert.NotZero(t, refused, "the schema accepts anything as %s", name)
			}
		})
	}
}

func requiredBySchema(t *testing.T, eventType schema.EventType, name string) bool {
	t.Helper()
	text, _ := schema.JSONSchema(eventType)
	var document struct{ Required []string }
	require.NoError(t, json.Unmarshal(text, &document))
	return slices.Contains(document.Required, name)
}

func binaryHeaders(eventType schema.EventType) []schema.Header {
	return []schema.Header{
		{Key: "ce_id", Value: []byte("id")},
		{Key: "ce_source", Value: []byte("source")},
		{Key: "ce_specversion", Value: []byte("1.0")},
		{Key: "ce_type", Value: []byte(eventType)},
		{Key: "content-type", Value: []byte("application/json")},
	}
}
