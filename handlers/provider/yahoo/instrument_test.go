package yahoo

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/schema"
)

func TestDescribeAnswer(t *testing.T) {
	t.Parallel()
	const price = `"symbol":"AAPL","regularMarketTime":1700168402,"regularMarketPrice":189.97`
	chart := func(meta string) string { return `{"chart":{"result":[{"meta":{` + meta + `}}],"error":null}}` }
	for name, test := range map[string]struct {
		answer string
		want   schema.Instrument
	}{
		"all that there is": {chart(price + `,"currency":"USD","exchangeName":"NMS","instrumentType":"EQUITY","exchangeTimezoneName":"America/New_York",
			"currentTradingPeriod":{"pre":{"start":1700125200,"end":1700145000},"regular":{"timezone":"EST","start":1700145000,"end":1700168400,"gmtoffset":-18000}}`),
			schema.Instrument{Currency: "USD", Venue: "NMS", Class: "equity", Timezone: "America/New_York",
				Session: &schema.Session{Begin: schema.NewTime(time.Unix(1700145000, 0)), End: schema.NewTime(time.Unix(1700168400, 0))}}},
		"pence":                  {chart(price + `,"currency":"GBp"`), schema.Instrument{Currency: "GBp"}},
		"a type that is new":     {chart(price + `,"currency":"USD","instrumentType":"WARRANT"`), schema.Instrument{Currency: "USD"}},
		"of other types":         {chart(price + `,"currency":7,"exchangeName":{},"currentTradingPeriod":[],"instrumentType":"INDEX"`), schema.Instrument{Class: "index"}},
		"a session of no length": {chart(price + `,"currency":"USD","currentTradingPeriod":{"regular":{"start":1700168400,"end":1700168400}}`), schema.Instrument{Currency: "USD"}},
		"a session without end":  {chart(price + `,"currency":"USD","currentTradingPeriod":{"regular":{"start":1700168400}}`), schema.Instrument{Currency: "USD"}},
		"nothing":                {chart(price), schema.Instrument{}},
		"another symbol":         {chart(`"symbol":"MSFT","currency":"USD"`), schema.Instrument{}},
		"an error":               {`{"chart":{"result":null,"error":{"code":"Not Found"}}}`, schema.Instrument{}},
		"no JSON":                {`<html>`, schema.Instrument{}},
	} {
		quote := schema.QuoteFetched{Quote: schema.Quote{Provider: Name, Symbol: "AAPL"}, RawResponse: schema.RawResponse(test.answer)}
		got, told := (*provider)(nil).DescribeAnswer(quote)
		assert.Equal(t, test.want, got, name)
		assert.Equal(t, !test.want.IsZero(), told, name)
	}
}
