package cmd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

// forged is a record that another producer writes: a good event at first, with all
// that can be done to it.
type forged struct {
	pipeline.TopicPartition
	record log.OutgoingRecord
	// fields is the value, property by property, as JSON; where it is nil, the
	// record has its value already.
	fields map[string]string
	random *rand.Rand
}

// What the properties of each topic's event are called.
var (
	numberOf = map[schema.Topic]string{schema.PriceEvents: "price", schema.QuoteOutcomes: "price", schema.PollingJobs: "interval"}
	// A price may be negative or zero, an interval and a size may not.
	intervalOf  = map[schema.Topic]string{schema.PollingJobs: "interval"}
	priceOf     = map[schema.Topic]string{schema.PriceEvents: "price", schema.QuoteOutcomes: "price"}
	tradeSizeOf = map[schema.Topic]string{schema.PriceEvents: "size"}
	timeOf      = map[schema.Topic]string{schema.RawQuotes: "received_at", schema.StoredQuotes: "received_at", schema.PriceEvents: "timestamp",
		schema.QuoteOutcomes: "timestamp", schema.PollingJobs: "created_at", schema.FetchRequests: "deadline"}
	idOf = map[schema.Topic]string{schema.RawQuotes: "request_id", schema.StoredQuotes: "raw_response_id", schema.PriceEvents: "request_id",
		schema.QuoteOutcomes: "raw_response_id", schema.PollingJobs: "job_id", schema.FetchRequests: "request_id"}
)

// goodEvent is one that the stages of a topic would take.
func goodEvent(topic schema.Topic, random *rand.Rand) schema.Payload {
	at := schema.NewTime(time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC).Add(time.Duration(random.Int64N(int64(time.Hour)))))
	id := strconv.FormatUint(random.Uint64(), 36)
	quote := schema.Quote{Provider: "simulated", Symbol: schema.Symbol("P" + strconv.Itoa(random.IntN(50))), RequestID: "poison-" + id}
	fetched := schema.QuoteFetched{Quote: quote, RawResponse: schema.RawResponse(`{"simulated":true}`), ReceivedAt: at}
	price := schema.MustDecimal(strconv.Itoa(1 + random.IntN(1000)))
	return map[schema.Topic]schema.Payload{
		schema.PollingJobs:   schema.PollingJobCreated{JobID: id, Symbols: []schema.Symbol{"A"}, Interval: 60, Provider: "simulated", CreatedAt: at},
		schema.FetchRequests: schema.FetchRequested{Quote: quote, RequestedAt: at, Deadline: at.Add(time.Second)},
		schema.RawQuotes:     fetched,
		schema.StoredQuotes:  schema.QuoteStored{QuoteFetched: fetched, RawResponseID: id},
		schema.PriceEvents: schema.PriceObserved{Symbol: quote.Symbol, Source: quote.Provider, Price: price, Timestamp: at,
			ReceivedAt: at, RequestID: quote.RequestID},
		schema.QuoteOutcomes: schema.QuoteUnchanged{Quote: quote, RawResponseID: id, Price: price, Timestamp: at, ReceivedAt: at},
	}[topic]
}

func newForged(t testing.TB, topic schema.Topic, random *rand.Rand) *forged {
	t.Helper()
	payload := goodEvent(topic, random)
	headers, value, err := schema.Event{ID: "forged-" + strconv.FormatUint(random.Uint64(), 36), Source: "elsewhere", Payload: payload}.Encode()
	require.NoError(t, err)
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(value, &fields))
	f := &forged{fields: map[string]string{}, random: random,
		record: log.OutgoingRecord{Key: []byte(payload.Key()), Headers: headers}}
	for name, text := range fields {
		f.fields[name] = string(text)
	}
	f.TopicPartition = pipeline.TopicPartition{Topic: topic, Partition: kafka.Partition(f.record.Key, partitionsInTests)}
	return f
}

// value is the value as it stands.
func (f *forged) value() []byte {
	if f.fields == nil {
		return f.record.Value
	}
	var b bytes.Buffer
	for i, name := range slices.Sorted(maps.Keys(f.fields)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", name, f.fields[name])
	}
	return []byte("{" + b.String() + "}")
}

// replace puts other bytes in the place of the value.
func (f *forged) replace(value []byte) { f.fields, f.record.Value = nil, value }

func (f *forged) header(key string, value []byte) {
	f.record.Headers = append(f.record.Headers, schema.Header{Key: key, Value: value})
}

func (f *forged) without(key string) {
	f.record.Headers = slices.DeleteFunc(f.record.Headers, func(h schema.Header) bool { return h.Key == key })
}

// noise is printable garbage.
func (f *forged) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(' ' + f.random.IntN('~'-' '))
	}
	return b
}

// poisonKind is a way to spoil a good record. Every stage of its topic puts it into
// its dead letters, with a reason that holds this text.
type poisonKind struct {
	name   string
	on     map[schema.Topic]string // the topics; nil: all
	reason string
	rare   bool // it is large
	spoil  func(f *forged)
}

// tooLarge is what Kafka still takes and no event may be.
const tooLarge = 900_000

const noPlace = "headers that name no place in a chain"

var poisonKinds = []poisonKind{
	{name: "truncated JSON", reason: "unexpected end of JSON input", spoil: func(f *forged) {
		v := f.value()
		v = v[:1+f.random.IntN(len(v)-1)]
		// Within an escape, the end is told otherwise.
		if at := bytes.LastIndexByte(v, '\\'); at >= 0 && len(v)-at < len(`\u0000`) {
			v = bytes.TrimRight(v[:at], `\`)
		}
		f.replace(v)
	}},
	{name: "wrong types", reason: "cannot unmarshal", spoil: func(f *forged) {
		if _, ofJob := f.fields["symbols"]; ofJob {
			f.fields["symbols"] = `{"A":1}`
		} else {
			f.fields["symbol"] = "7"
		}
	}},
	{name: "NaN", reason: "invalid character 'N'", spoil: func(f *forged) { f.fields["price"] = "NaN" }},
	{name: "a negative interval", on: intervalOf, reason: "interval", spoil: func(f *forged) { f.fields["interval"] = "-60" }},
	{name: "an interval of zero", on: intervalOf, reason: "interval", spoil: func(f *forged) { f.fields["interval"] = "0" }},
	{name: "a negative size", on: tradeSizeOf, reason: "size", spoil: func(f *forged) { f.fields["size"] = "-1" }},
	{name: "a price of 20 digits", on: priceOf, reason: "digits", spoil: func(f *forged) { f.fields["price"] = strings.Repeat("9", 20) }},
	{name: "an absurd exponent", on: numberOf, reason: "1e999999", spoil: func(f *forged) { f.fields[numberOf[f.Topic]] = "1e999999" }},
	{name: "a number of 10,000 digits", on: numberOf, reason: "111", spoil: func(f *forged) { f.fields[numberOf[f.Topic]] = strings.Repeat("1", 10_000) }},
	{name: "a year that is none", on: timeOf, reason: "year", spoil: func(f *forged) {
		f.fields[timeOf[f.Topic]] = []string{`"0999-12-31T23:59:59Z"`, `"0001-01-02T00:00:00Z"`}[f.random.IntN(2)]
	}},
	{name: "no time", on: timeOf, reason: "not RFC 3339", spoil: func(f *forged) {
		f.fields[timeOf[f.Topic]] = []string{`"10000-01-01T00:00:00Z"`, `"yesterday"`, `"2025-06-15 14:30:00"`}[f.random.IntN(3)]
	}},
	{name: "a symbol of 10,000 characters", reason: "symbol", spoil: func(f *forged) {
		long := `"` + strings.Repeat("A", 10_000) + `"`
		if _, ofJob := f.fields["symbols"]; ofJob {
			long = "[" + long + "]"
			f.fields["symbols"] = long
		} else {
			f.fields["symbol"] = long
		}
	}},
	{name: "an id of 10,000 characters", reason: "more than 2", on: idOf, spoil: func(f *forged) { f.fields[idOf[f.Topic]] = `"` + strings.Repeat("i", 10_000) + `"` }},
	{name: "an id with a NUL", reason: "printable", on: idOf, spoil: func(f *forged) { f.fields[idOf[f.Topic]] = `"a\u0000b"` }},
	{name: "invalid UTF-8", reason: "not valid UTF-8", spoil: func(f *forged) { f.fields["x"] = "\"\xff\xfe\"" }},
	{name: "a key of JSON twice", reason: "occurs twice", on: timeOf, spoil: func(f *forged) {
		name := timeOf[f.Topic]
		f.replace([]byte(strings.Replace(string(f.value()), "{", `{"`+name+`":`+f.fields[name]+",", 1)))
	}},
	{name: "JSON nested 10,001 deep", reason: "exceeded max depth", spoil: func(f *forged) {
		f.fields["x"] = strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001)
	}},
	{name: "another JSON", reason: "", spoil: func(f *forged) {
		f.replace([]byte([]string{"null", "[]", `"text"`, "17", "true", "{}", "<price/>"}[f.random.IntN(7)]))
	}},
	{name: "an empty value", reason: "unexpected end of JSON input", spoil: func(f *forged) { f.replace([]byte{}) }},
	{name: "a null value", reason: "unexpected end of JSON input", spoil: func(f *forged) { f.replace(nil) }},
	{name: "null key and value", reason: "unexpected end of JSON input", spoil: func(f *forged) { f.replace(nil); f.record.Key = nil }},
	{name: "empty key and no headers", reason: "specversion", spoil: func(f *forged) { f.record.Key, f.record.Headers = []byte{}, nil }},
	{name: "no headers", reason: "specversion", spoil: func(f *forged) { f.record.Headers = nil }},
	{name: "garbage headers", reason: "specversion", spoil: func(f *forged) {
		f.record.Headers = nil
		for range 1 + f.random.IntN(20) {
			f.header(string([]byte{byte(f.random.IntN(256)), byte(f.random.IntN(256))}), []byte{0xff, byte(f.random.IntN(256))})
		}
		f.header("", nil)
		f.header("", []byte{})
	}},
	{name: "no ce_type", reason: "required", spoil: func(f *forged) { f.without("ce_type") }},
	{name: "no ce_id", reason: "required", spoil: func(f *forged) { f.without("ce_id") }},
	{name: "a null ce_id", reason: "required", spoil: func(f *forged) { f.header("ce_id", nil) }},
	{name: "a ce_id that is no text", reason: "id: not a text", spoil: func(f *forged) { f.header("ce_id", []byte{'a', 0, 0xff}) }},
	{name: "a ce_type twice", reason: "unknown event type", spoil: func(f *forged) { f.header("ce_type", f.noise(10)) }},
	{name: "unknown version", reason: "unknown event type", spoil: func(f *forged) { f.header("ce_type", []byte("market.price.observed.v999")) }},
	{name: "an event of another topic", reason: "belongs on topic", spoil: func(f *forged) {
		other := schema.RawQuotes
		if f.Topic == other {
			other = schema.PriceEvents
		}
		headers, value, err := schema.Event{ID: "x", Source: "elsewhere", Payload: goodEvent(other, f.random)}.Encode()
		if err != nil {
			panic(err) // a good event
		}
		f.record.Headers = headers
		f.replace(value)
	}},
	{name: "another specversion", reason: "specversion", spoil: func(f *forged) { f.header("ce_specversion", []byte("0.3")) }},
	{name: "broken structured mode", reason: "structured", spoil: func(f *forged) {
		f.header("content-type", []byte("application/cloudevents+json"))
		f.replace([]byte(`{"id":"1","source":"s","type":"market.price.observed.v1","specversion":"1.0","data":` + string(f.noise(5))))
	}},
	{name: noPlace, reason: "no place in a chain", spoil: func(f *forged) {
		number := []string{"", "x", "0", "-1", "1.5", "99999999999999999999", "1e3"}[f.random.IntN(7)]
		if f.random.IntN(2) == 0 {
			f.header("ce_outboxid", f.noise(8))
		}
		f.header("ce_outboxseq", []byte(number))
	}},
	{name: "a wrong partition", reason: "not on its own", spoil: func(f *forged) {
		f.Partition = (f.Partition + 1 + f.random.Int32N(partitionsInTests-1)) % partitionsInTests
	}},
	{name: "900 kB of garbage", reason: "invalid character", rare: true, spoil: func(f *forged) { f.replace(append([]byte("!"), f.noise(tooLarge)...)) }},
	{name: "an answer of 900 kB", reason: "not within 1 and", rare: true,
		on:    map[schema.Topic]string{schema.RawQuotes: "", schema.StoredQuotes: ""},
		spoil: func(f *forged) { f.fields["raw_response"] = `"` + strings.Repeat("x", tooLarge) + `"` }},
	{name: "a header of 900 kB", reason: "unknown event type", rare: true, spoil: func(f *forged) { f.header("ce_type", f.noise(tooLarge)) }},
}

// poisonTopics are all, raw-quotes the most: anybody's stream writes there.
var poisonTopics = []schema.Topic{schema.RawQuotes, schema.RawQuotes, schema.RawQuotes, schema.RawQuotes, schema.StoredQuotes,
	schema.PriceEvents, schema.QuoteOutcomes, schema.PollingJobs, schema.FetchRequests}

// poisonOf is a spoilt record with the kind of its poison.
type poisonOf struct {
	*forged
	kind poisonKind
}

// makePoison makes n records, of each kind as many on each topic.
func makePoison(t testing.TB, random *rand.Rand, n int) []poisonOf {
	t.Helper()
	all := make([]poisonOf, 0, n)
	for i := 0; len(all) < n; i++ {
		topic := poisonTopics[random.IntN(len(poisonTopics))]
		kind := poisonKinds[i%len(poisonKinds)]
		if _, there := kind.on[topic]; kind.on != nil && !there || kind.rare && random.IntN(10) != 0 {
			continue
		}
		f := newForged(t, topic, random)
		kind.spoil(f)
		f.replace(f.value())
		all = append(all, poisonOf{f, kind})
	}
	return all
}

// unpriced are answers that hold no price. What a provider answers is data: it is
// stored as it came, and becomes an outcome instead of a dead letter.
var unpriced = map[string]struct {
	answer   string // with a symbol for the %s
	provider schema.Provider
	code     schema.Code
}{
	"a price of zero":       {`{"simulated":true,"provider":"simulated","symbol":%q,"price":"0","time":"2025-06-15T14:30:00Z"}`, "simulated", schema.CodeBadPrice},
	"a negative price":      {`{"simulated":true,"provider":"simulated","symbol":%q,"price":"-1","time":"2025-06-15T14:30:00Z"}`, "simulated", schema.CodeBadPrice},
	"a price of NaN":        {`{"simulated":true,"provider":"simulated","symbol":%q,"price":"NaN","time":"2025-06-15T14:30:00Z"}`, "simulated", schema.CodeBadPrice},
	"an absurd exponent":    {`{"simulated":true,"provider":"simulated","symbol":%q,"price":"1e999999","time":"2025-06-15T14:30:00Z"}`, "simulated", schema.CodeBadPrice},
	"NaN as it is":          {`{"simulated":true,"provider":"simulated","symbol":%q,"price":NaN}`, "simulated", schema.CodeBadResponse},
	"truncated JSON":        {`{"simulated":true,"provider":"simulated","symbol":%q,"pri`, "simulated", schema.CodeBadResponse},
	"nested 10,001 deep":    {`{"symbol":%q,"x":` + strings.Repeat("[", 10_001), "simulated", schema.CodeBadResponse},
	"the year 966":          {`{"simulated":true,"provider":"simulated","symbol":%q,"price":"1","time":"0966-10-14T09:00:00Z"}`, "simulated", schema.CodeBadResponse},
	"a time years ahead":    {`{"simulated":true,"provider":"simulated","symbol":%q,"price":"1","time":"2125-06-15T14:30:00Z"}`, "simulated", schema.CodeBadResponse},
	"neither UTF-8":         {"\xff\x00 %q", "simulated", schema.CodeBadResponse},
	"a provider no one has": {`{"price":"1","symbol":%q}`, "nobody", schema.CodeUnknownProvider},
}
