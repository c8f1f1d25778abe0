package payload_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	var into struct {
		A json.RawMessage
		B *string
	}
	assert.NoError(t, payload.Decode(schema.RawResponse(` {"a": 1.50 , "c": [] }`), &into))
	assert.Equal(t, "1.50", string(into.A))
	for _, text := range []string{"", "[]", `{"a":1`, `{"a":1}{}`, `{"a":NaN}`, `{"b":1}`, "\xff"} {
		assertCode(t, schema.CodeBadResponse, payload.Decode(schema.RawResponse(text), &into))
	}
	long := schema.RawResponse(`{"a":1}` + strings.Repeat(" ", schema.MaxRawResponse))
	assertCode(t, schema.CodeBadResponse, payload.Decode(long, &into))
	assert.NoError(t, payload.Decode(long[:schema.MaxRawResponse], &into))
}

func TestPrice(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"261.74": "261.74", `"261.740"`: "261.74", "1.304e-05": "0.00001304", "189.97999572753906": "189.97999572753906",
		`"999999999999999999.999999999999999999"`: "999999999999999999.999999999999999999",
	} {
		price, err := payload.Price(json.RawMessage(field))
		assert.NoError(t, err, field)
		assert.Equal(t, want, price.String())
	}
	for _, field := range []string{"", "null", `""`, `"`, "0", `"0.00"`, "-1", `"-0.01"`, "true", "{}", "[1]", `"NaN"`, `"0x1p4"`, `"1 "`,
		`"\u0031"`, "0.1234567890123456789", "1234567890123456789", "1e999999999", "1e-999999999"} {
		_, err := payload.Price(json.RawMessage(field))
		assertCode(t, schema.CodeBadPrice, err)
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]time.Time{
		"1":            time.Date(1970, 1, 1, 0, 0, 1, 0, time.UTC),
		"1582641000":   time.Date(2020, 2, 25, 14, 30, 0, 0, time.UTC),
		"253402300799": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		at, err := payload.Seconds(json.RawMessage(field))
		assert.NoError(t, err, field)
		assert.Equal(t, schema.NewTime(want), at)
	}
	for _, field := range []string{"", "null", "0", "-1", "1.5", "1e9", `"1"`, "253402300800", "9223372036854775807", "9223372036854775808"} {
		_, err := payload.Seconds(json.RawMessage(field))
		assertCode(t, schema.CodeBadResponse, err)
	}
}

func TestCheckTime(t *testing.T) {
	t.Parallel()
	assert.NoError(t, payload.CheckTime(schema.NewTime(time.Unix(0, 0))))
	for _, at := range []schema.Time{{}, schema.NewTime(time.Date(999, 12, 31, 23, 59, 59, 0, time.UTC)),
		schema.NewTime(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))} {
		assertCode(t, schema.CodeBadResponse, payload.CheckTime(at))
	}
}

func assertCode(t testing.TB, want schema.Code, err error) {
	t.Helper()
	var quoteErr *pipeline.QuoteError
	if assert.ErrorAs(t, err, &quoteErr) {
		assert.Equal(t, want, quoteErr.Code, "%v", err)
	}
}

func TestSequence(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]schema.Sequence{`155987`: 155987, `"155987"`: 155987, `-1`: -1, ``: 0, `null`: 0, `"ac1f"`: 0, `1.5`: 0, `"`: 0} {
		assert.Equal(t, want, payload.Sequence(json.RawMessage(text)), text)
	}
}
