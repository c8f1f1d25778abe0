package httpapi

import (
	"testing"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// TestJSONByHandIsThatOfTheEncoder: to the byte, whatever is in it.
func TestJSONByHandIsThatOfTheEncoder(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "AAPL", "^GSPC", "A&B", "<a>", `"\`, "币安人生USDT", "a\x00b", "\u2028", "\xff", "\x7f", "tab\t", "é"} {
		for _, number := range []string{"0", "-1.5", "0.000000000000000001", "185.75", "999999999999999999.999999999999999999", "100"} {
			for _, at := range []schema.Time{{}, schema.NewTime(time.Unix(1, 999_999_999)), schema.NewTime(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))} {
				price := priceBody{schema.Symbol(text), schema.MustDecimal(number), at, schema.Provider(text)}
				for _, body := range []interface{ appendTo(jsonText) jsonText }{price, knownPrice{price, at}, averageBody{schema.Symbol(text), len(text) - 3, price.Price, at}} {
					want, err := encode(body)
					if err != nil {
						t.Fatal(err)
					}
					if got := body.appendTo(jsonText("x")); string(got) != "x"+string(want) {
						t.Errorf("got  %s\nwant x%s", got, want)
					}
				}
			}
		}
	}
}
