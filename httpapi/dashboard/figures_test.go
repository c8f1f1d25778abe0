package dashboard_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/httpapi/dashboard"
	"github.com/pricemill/pricemill/schema"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ price, reference, text, percent, direction string }{
		{"185.75", "184.5", "+1.25", "+0.68 %", "up"},
		{"184.5", "185.75", "−1.25", "−0.67 %", "down"},
		{"1", "1", "0.0", "0.00 %", "flat"},
		{"0.00001304", "0.00001305", "−0.00000001", "−0.08 %", "down"},
		{"-1", "-2", "+1.0", "+50.00 %", "up"},
		{"5", "0", "+5.0", "", "up"},
		{"999999999999999999", "0.000000000000000001", "+999999999999999998.999999999999999999", "+99999999999999999899999999999999999900.00 %", "up"},
	} {
		got := dashboard.NewChange(schema.MustDecimal(c.price), schema.MustDecimal(c.reference), schema.Time{}, 1)
		assert.Equal(t, c.text, got.Text, c)
		assert.Equal(t, c.percent, got.Percent, c)
		assert.Equal(t, c.direction, string(got.Direction), c)
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	assert.Equal(t, dashboard.Figure{Short: "184.9235", Exact: "184.923456789"}, dashboard.NewFigure(schema.MustDecimal("184.923456789"), 2))
	assert.Equal(t, "−1.00", dashboard.NewFigure(schema.MustDecimal("-1"), 0).Short)
	assert.Equal(t, "392.00", dashboard.Padded(schema.MustDecimal("392"), 2))
	assert.Equal(t, "392.125", dashboard.Padded(schema.MustDecimal("392.125"), 2), "no digit is cut")
	assert.Equal(t, 3, dashboard.Digits(schema.MustDecimal("1"), schema.MustDecimal("1.125"), schema.MustDecimal("1.5")))
}

func TestAges(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{-time.Hour: "now", 999 * time.Millisecond: "now", time.Second: "1 s", 59 * time.Second: "59 s",
		time.Minute: "1 min", time.Hour: "1 h", 47 * time.Hour: "47 h", 48 * time.Hour: "2 d"} {
		assert.Equal(t, want, dashboard.Age(d))
	}
}

func TestSparklines(t *testing.T) {
	t.Parallel()
	of := func(newestFirst ...string) string {
		var prices []schema.Decimal
		for _, text := range newestFirst {
			prices = append(prices, schema.MustDecimal(text))
		}
		return dashboard.Sparkline(prices)
	}
	assert.Equal(t, "0.0,23.0 48.0,12.0 96.0,1.0", of("3", "2", "1"), "the newest is on the right, the highest on top")
	assert.Equal(t, "0.0,12.0 96.0,12.0", of("1", "1"))
	assert.Empty(t, of("1"))
	assert.Empty(t, of())
}
