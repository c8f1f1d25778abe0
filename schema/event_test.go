package schema_test

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

const priceType = "market.price.observed.v1"

func observed(t require.TestingT) schema.PriceObserved {
	return schema.PriceObserved{
		Symbol: "AAPL", Price: schema.MustDecimal("185.75"), Source: "finnhub",
		Timestamp: mustTime(t, "2025-06-15T14:30:00Z"), ReceivedAt: mustTime(t, "2025-06-15T14:30:01Z"),
	}
}

const priceJSON = `{"symbol":"AAPL","price":185.75,"timestamp":"2025-06-15T14:30:00.000000Z","source":"finnhub","received_at":"2025-06-15T14:30:01.000000Z"}`

func TestEventRoundTrips(t *testing.T) {
	t.Parallel()
	event := schema.Event{ID: "id", Source: "pricemill/test", Traceparent: "00-1-2-01", Payload: observed(t)}
	headers, value, err := event.Encode()
	require.NoError(t, err)
	assert.Equal(t, priceJSON, string(value))
	decoded, err := schema.DecodeEvent(headers, value)
	require.NoError(t, err)
	assert.Equal(t, event, decoded)
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	tooLong, timeless := observed(t), observed(t)
	tooLong.Price = schema.MustDecimal("999999999999999999").Add(schema.MustDecimal("1"))
	timeless.Timestamp = schema.Time{}
	for name, c := range map[string]struct {
		event schema.Event
		want  error
	}{
		"no id":             {schema.Event{Source: "s", Payload: observed(t)}, schema.ErrEnvelope},
		"no source":         {schema.Event{ID: "1", Payload: observed(t)}, schema.ErrEnvelope},
		"no payload":        {schema.Event{ID: "1", Source: "s"}, schema.ErrEnvelope},
		"price too long":    {schema.Event{ID: "1", Source: "s", Payload: tooLong}, schema.ErrPayload},
		"no time":           {schema.Event{ID: "1", Source: "s", Payload: timeless}, schema.ErrPayload},
		"empty":             {schema.Event{ID: "1", Source: "s", Payload: schema.QuoteStored{}}, schema.ErrPayload},
		"year out of range": {schema.Event{ID: "1", Source: "s", Payload: late(t)}, schema.ErrPayload},
	} {
		_, _, err := c.event.Encode()
		assert.ErrorIs(t, err, c.want, name)
	}
}

// late is in the year 10000, in UTC.
func late(t *testing.T) schema.PriceObserved {
	p := observed(t)
	p.Timestamp = mustTime(t, "9999-12-31T23:59:59-01:00")
	return p
}

func with(headers []schema.Header, key, value string) []schema.Header {
	headers = slices.Clone(headers)
	for i := range headers {
		if headers[i].Key == key {
			headers[i].Value = []byte(value)
			return headers
		}
	}
	return append(headers, schema.Header{Key: key, Value: []byte(value)})
}

func TestDecodeRefusesEnvelopes(t *testing.T) {
	t.Parallel()
	good := binaryHeaders(priceType)
	for name, c := range map[string]struct {
		headers []schema.Header
		want    error
	}{
		"no headers":         {nil, schema.ErrEnvelope},
		"no id":              {with(good, "ce_id", ""), schema.ErrEnvelope},
		"no source":          {with(good, "ce_source", ""), schema.ErrEnvelope},
		"no type":            {with(good, "ce_type", ""), schema.ErrEnvelope},
		"no version":         {with(good, "ce_specversion", ""), schema.ErrEnvelope},
		"other version":      {with(good, "ce_specversion", "0.3"), schema.ErrEnvelope},
		"unknown type":       {with(good, "ce_type", "market.price.observed.v999"), schema.ErrUnknownType},
		"type of other":      {with(good, "ce_type", "polling.job.ran.v1"), schema.ErrPayload},
		"structured mode":    {with(good, "content-type", "application/cloudevents+json"), schema.ErrEnvelope},
		"batched mode":       {with(good, "content-type", "application/cloudevents-batch+json"), schema.ErrEnvelope},
		"attributes in CAPS": {[]schema.Header{{Key: "CE_ID", Value: []byte("1")}}, schema.ErrEnvelope},
	} {
		_, err := schema.DecodeEvent(c.headers, []byte(priceJSON))
		assert.ErrorIs(t, err, c.want, name)
	}
}

func TestDecodeRefusesPayloads(t *testing.T) {
	t.Parallel()
	change := func(from, to string) string {
		require.Contains(t, priceJSON, from)
		return strings.Replace(priceJSON, from, to, 1)
	}
	for name, value := range map[string]string{
		"empty":                "",
		"null":                 "null",
		"array":                "[]",
		"truncated":            priceJSON[:len(priceJSON)-1],
		"trailing":             priceJSON + "x",
		"two":                  priceJSON + priceJSON,
		"invalid UTF-8":        change("AAPL", "AAPL\xff"),
		"no price":             change(`"price":185.75,`, ``),
		"price too low":        change("185.75", "-1e18"),
		"price in float":       change("185.75", "NaN"),
		"price null":           change("185.75", "null"),
		"price of 19 digits":   change("185.75", "0.1234567890123456789"),
		"symbol with a line":   change("AAPL", `AA\nPL`),
		"time without zone":    change("14:30:00.000000Z", "14:30:00"),
		"time null":            change(`"2025-06-15T14:30:00.000000Z"`, "null"),
		"key twice":            change(`"price":185.75`, `"price":185.75,"price":185.75`),
		"key twice, escaped":   change(`"price":185.75`, `"price":185.75,"pric\u0065":1`),
		"key in upper case":    change(`"price"`, `"PRICE"`),
		"key in both cases":    change(`"price":185.75`, `"price":185.75,"Price":1`),
		"key with a long s":    change(`"source"`, `"ſource"`),
		"key far behind":       change(`{`, `{"a":{"price":[1,"}\\\""]},"b\\":"\"","Price" :1,`),
		"deeply nested":        change(`{`, `{"a":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+`,`),
		"number for a string":  change(`"AAPL"`, `5`),
		"price with a comment": change("185.75", "185.75/**/"),
	} {
		_, err := schema.DecodeEvent(binaryHeaders(priceType), []byte(value))
		assert.ErrorIs(t, err, schema.ErrPayload, name)
	}
}

func TestDecodeIgnoresWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	value := strings.Replace(priceJSON, "{",
		`{"new":{"price":-1,"PRICE":[{"price":2}],"price":3},"new":"\\\"price\":","\\":"\\" , "`+"pri"+`": "price", `, 1)
	event, err := schema.DecodeEvent(binaryHeaders(priceType), []byte(value))
	require.NoError(t, err)
	assert.Equal(t, observed(t), event.Payload)
}

func TestDecodeReadsNumbersAsJSONHasThem(t *testing.T) {
	t.Parallel()
	for _, number := range []string{"185.75", "1.8575e2", "18575E-2", "0.018575e+04", "185.7500000000000000000000", `"185.75"`} {
		event, err := schema.DecodeEvent(binaryHeaders(priceType), []byte(strings.Replace(priceJSON, "185.75", number, 1)))
		require.NoError(t, err, number)
		assert.Equal(t, "185.75", event.Payload.(schema.PriceObserved).Price.String())
	}
}

func TestStructuredMode(t *testing.T) {
	t.Parallel()
	const attributes = `"id":"1","source":"s","type":"market.price.observed.v1","specversion":"1.0"`
	base64Of := func(data string) string {
		return `"data_base64":"` + base64.StdEncoding.EncodeToString([]byte(data)) + `"`
	}
	for name, c := range map[string]struct {
		value string
		want  error
	}{
		"data":                    {`{` + attributes + `,"data":` + priceJSON + `}`, nil},
		"data in base64":          {`{` + attributes + `,` + base64Of(priceJSON) + `}`, nil},
		"extensions":              {`{` + attributes + `,"data":` + priceJSON + `,"ext":1,"dataschema":"x"}`, nil},
		"no data":                 {`{` + attributes + `}`, schema.ErrPayload},
		"data of both forms":      {`{` + attributes + `,"data":` + priceJSON + `,` + base64Of(priceJSON) + `}`, schema.ErrEnvelope},
		"data not UTF-8":          {`{` + attributes + `,` + base64Of(strings.Replace(priceJSON, "AAPL", "\xff", 1)) + `}`, schema.ErrPayload},
		"data no base64":          {`{` + attributes + `,"data_base64":"%%%"}`, schema.ErrEnvelope},
		"data twice":              {`{` + attributes + `,"data":` + priceJSON + `,"data":` + priceJSON + `}`, schema.ErrEnvelope},
		"attribute twice":         {`{` + attributes + `,"id":"2","data":` + priceJSON + `}`, schema.ErrEnvelope},
		"attribute in caps":       {`{` + strings.Replace(attributes, `"id"`, `"ID"`, 1) + `,"data":` + priceJSON + `}`, schema.ErrEnvelope},
		"no id":                   {`{"source":"s","type":"t","specversion":"1.0","data":{}}`, schema.ErrEnvelope},
		"no JSON":                 {`<event/>`, schema.ErrEnvelope},
		"attribute of wrong type": {`{"id":1}`, schema.ErrEnvelope},
	} {
		for _, contentType := range []string{"application/cloudevents+json", "Application/CloudEvents+JSON; charset=UTF-8", "application/cloudevents"} {
			event, err := schema.DecodeEvent([]schema.Header{{Key: "content-type", Value: []byte(contentType)}}, []byte(c.value))
			if c.want != nil {
				assert.ErrorIs(t, err, c.want, name)
				continue
			}
			require.NoError(t, err, name)
			assert.Equal(t, schema.Event{ID: "1", Source: "s", Payload: observed(t)}, event, name)
		}
	}
}

// The envelope's own trace context wins; the record's header stands without one.
func TestStructuredModeTraceparent(t *testing.T) {
	t.Parallel()
	for own, want := range map[string]string{"": "of the record", `"traceparent":"of the event",`: "of the event"} {
		event, err := schema.DecodeEvent([]schema.Header{
			{Key: "content-type", Value: []byte("application/cloudevents+json")},
			{Key: "traceparent", Value: []byte("of the record")},
		}, []byte(`{`+own+`"id":"1","source":"s","type":"market.price.observed.v1","specversion":"1.0","data":`+priceJSON+`}`))
		require.NoError(t, err)
		assert.Equal(t, want, event.Traceparent)
	}
}

// imposter claims the type of another payload.
type imposter struct{ schema.PollingJobRan }

func (imposter) EventType() schema.EventType { return priceType }

func TestRegisterPanicsOnDuplicates(t *testing.T) {
	t.Parallel()
	before := schema.EventTypes()
	assert.PanicsWithValue(t, "schema: event type market.price.observed.v1 registered twice: schema.PriceObserved and schema_test.imposter",
		func() { schema.Register[imposter]() })
	assert.Panics(t, func() { schema.Register[schema.PriceObserved]() })
	assert.Equal(t, before, schema.EventTypes())
}

func TestTopics(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []schema.Topic{"polling-jobs", "fetch-requests", "raw-quotes", "stored-quotes", "price-events", "quote-outcomes"}, schema.Topics())
	for _, eventType := range schema.EventTypes() {
		topic, known := schema.TopicOf(eventType)
		assert.True(t, known)
		assert.Contains(t, schema.Topics(), topic)
	}
	_, known := schema.TopicOf("no.such.event.v1")
	assert.False(t, known)
}

func TestEventTypesAreVersioned(t *testing.T) {
	t.Parallel()
	versioned := regexp.MustCompile(`^[a-z]+(\.[a-z]+)+\.v[1-9][0-9]*$`)
	for _, eventType := range schema.EventTypes() {
		assert.Regexp(t, versioned, string(eventType))
	}
}

// The ids below are in logs and tables: they may never change.
func TestDeriveIDIsStable(t *testing.T) {
	t.Parallel()
	for want, parts := range map[string][]string{
		"e3b0c442-98fc-8c14-9afb-f4c8996fb924": nil,
		"ba768b33-1fd8-8cec-803b-e04e56ab2b3d": {""},
		"f1a0c696-ac8a-8eab-8d7f-c95bba70c471": {"normalize", "topic-id", "3", "4711", "0"},
	} {
		assert.Equal(t, want, schema.DeriveID(parts...))
	}
}

func TestDeriveID(t *testing.T) {
	t.Parallel()
	uuid8 := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	parts := rapid.SliceOfN(rapid.StringMatching(`[ab:0-9]{0,3}`), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		require.Regexp(t, uuid8, schema.DeriveID(a...))
		require.Equal(t, slices.Equal(a, b), schema.DeriveID(a...) == schema.DeriveID(b...))
	})
	assert.NotEqual(t, schema.DeriveID("ab", "c"), schema.DeriveID("a", "bc"))
}

func TestKeysAreOnePerInstrument(t *testing.T) {
	t.Parallel()
	quote := schema.Quote{Provider: "finnhub", Symbol: "AAPL"}
	for _, p := range []schema.Payload{
		observed(t), schema.FetchRequested{Quote: quote}, schema.QuoteFetched{Quote: quote},
		schema.QuoteStored{QuoteFetched: schema.QuoteFetched{Quote: quote}},
		schema.QuoteFailed{Quote: quote}, schema.QuoteRejected{Quote: quote}, schema.QuoteUnchanged{Quote: quote},
	} {
		assert.Equal(t, "finnhub/AAPL", p.Key(), p.EventType())
	}
}

// QuoteStored promotes methods through two embedded structs: none may hide its own.
func TestQuoteStoredIsItself(t *testing.T) {
	t.Parallel()
	at := mustTime(t, "2025-06-15T14:30:00Z")
	fetched := schema.QuoteFetched{Quote: schema.Quote{Provider: "finnhub", Symbol: "AAPL"}, RawResponse: []byte("x"), ReceivedAt: at}
	stored := schema.QuoteStored{QuoteFetched: fetched, RawResponseID: "1"}
	assert.Equal(t, schema.EventType("market.quote.stored.v1"), stored.EventType())
	assert.Equal(t, schema.StoredQuotes, stored.Topic())
	assert.Equal(t, at, stored.OccurredAt())
	assert.NoError(t, stored.Validate())
	for name, spoil := range map[string]func(*schema.QuoteStored){
		"own field":     func(q *schema.QuoteStored) { q.RawResponseID = "" },
		"of the answer": func(q *schema.QuoteStored) { q.RawResponse = nil },
		"of the quote":  func(q *schema.QuoteStored) { q.Symbol = "" },
	} {
		bad := stored
		spoil(&bad)
		assert.Error(t, bad.Validate(), name)
	}
	value, err := json.Marshal(stored)
	require.NoError(t, err)
	assert.JSONEq(t, `{"provider":"finnhub","symbol":"AAPL","raw_response":"x","received_at":"2025-06-15T14:30:00.000000Z","raw_response_id":"1"}`, string(value))
}

// Oil was sold at less than nothing, and a spread may cost nothing: both are prices.
func TestPricesOfAnySign(t *testing.T) {
	t.Parallel()
	for _, price := range []string{"-36.98", "0", "-999999999999999999.999999999999999999"} {
		event := schema.Event{ID: "1", Source: "s", Payload: observed(t)}
		payload := event.Payload.(schema.PriceObserved)
		payload.Price = schema.MustDecimal(price)
		payload.Timestamp = mustTime(t, "1871-01-01T00:00:00Z")
		event.Payload = payload
		headers, value, err := event.Encode()
		require.NoError(t, err, price)
		decoded, err := schema.DecodeEvent(headers, value)
		require.NoError(t, err, price)
		assert.Equal(t, payload, decoded.Payload)
	}
}
