package declared_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// withInstrument is a definition with a section of its own.
func withInstrument(section string) []byte {
	return []byte(`name: acme
base_url: https://api.acme.example
request: "{symbol}"
limits: [{calls: 60, per: 1m}]
read: {price: .p, time: .t, unit: seconds}
` + section)
}

func TestInstrument(t *testing.T) {
	t.Parallel()
	for section, want := range map[string]schema.Instrument{
		"": {},
		"instrument: {currency: EUR, venue: Acme Exchange, class: fx, hours: always, tick_size: '0.0001'}": {
			Currency: "EUR", Venue: "Acme Exchange", Class: "fx", Hours: schema.HoursAlways, TickSize: schema.MustDecimal("0.0001")},
		`instrument: {currency: 'capture("-(?<quote>.+)$").quote', class: crypto}`: {Currency: "USDT", Class: "crypto"},
		`instrument: {currency: 'if . == "BTC-USDT" then "x" else . end'}`:         {},
		`instrument: {currency: 'capture("/(?<quote>.+)$").quote'}`:                {},
		`instrument: {currency: 'length'}`:                                         {},
	} {
		definition, err := declared.Parse(withInstrument(section))
		require.NoError(t, err, section)
		provider, err := definition.New(pipeline.Env{})
		require.NoError(t, err)
		assert.Equal(t, want, provider.(pipeline.Describer).DescribeSymbol("BTC-USDT"), section)
	}
}

func TestWrongInstruments(t *testing.T) {
	t.Parallel()
	for section, want := range map[string]string{
		"instrument: {currency: '$'}":                          "instrument: currency: ",
		"instrument: {tick_size: '0'}":                         "instrument: tick_size: 0 is not above zero",
		"instrument: {tick_size: small}":                       "instrument: tick_size: ",
		"instrument: {class: FX}":                              `instrument: class: "FX": want lower-case`,
		"instrument: {hours: weekdays}":                        `instrument: hours: "weekdays": want always`,
		"instrument: {venue: " + strings.Repeat("x", 65) + "}": "instrument: venue: ",
		"instrument: {curency: EUR}":                           `there is no key "curency" here; did you mean "currency"?`,
	} {
		_, err := declared.Parse(withInstrument(section))
		require.ErrorIs(t, err, declared.ErrDefinition, section)
		assert.ErrorContains(t, err, want)
	}
}
