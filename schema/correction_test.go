package schema_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

func TestCorrectionsAreValidated(t *testing.T) {
	t.Parallel()
	b := bar()
	about := schema.Correction{FactID: "id", Symbol: b.Symbol, Timestamp: b.Timestamp, Source: b.Source, Reason: "a typo"}
	valid := schema.PriceCorrected{Correction: about, Price: schema.MustDecimal("1"), CorrectedAt: b.Timestamp}
	require.NoError(t, valid.Validate())
	require.NoError(t, schema.PriceRetracted{Correction: about, RetractedAt: b.Timestamp}.Validate())
	assert.Equal(t, b.Key(), valid.Key(), "on the partition of its fact")
	for want, spoil := range map[string]func(*schema.PriceCorrected){
		"fact_id: required":      func(p *schema.PriceCorrected) { p.FactID = "" },
		"symbol":                 func(p *schema.PriceCorrected) { p.Symbol = "" },
		"provider":               func(p *schema.PriceCorrected) { p.Source = "" },
		"timestamp: required":    func(p *schema.PriceCorrected) { p.Timestamp = schema.Time{} },
		"reason: required":       func(p *schema.PriceCorrected) { p.Reason = "" },
		"reason: 513 bytes":      func(p *schema.PriceCorrected) { p.Reason = strings.Repeat("x", 513) },
		"size: -1 is negative":   func(p *schema.PriceCorrected) { p.Size = schema.MustDecimal("-1") },
		"corrected_at: required": func(p *schema.PriceCorrected) { p.CorrectedAt = schema.Time{} },
	} {
		p := valid
		spoil(&p)
		assert.ErrorContains(t, p.Validate(), want)
	}
	assert.ErrorContains(t, schema.PriceRetracted{Correction: about}.Validate(), "retracted_at: required")
}

func TestFactTypesAreThoseOfPricesAndOfCorrections(t *testing.T) {
	t.Parallel()
	for _, payload := range []schema.Payload{schema.PriceObserved{}, schema.BarObserved{}, schema.PriceCorrected{}, schema.PriceRetracted{}} {
		assert.Contains(t, schema.FactTypes(), payload.EventType())
		_, price := schema.PriceOf(payload)
		_, correction := schema.CorrectionOf(payload)
		assert.NotEqual(t, price, correction, "%T is one or the other", payload)
	}
	assert.Len(t, schema.FactTypes(), 4)
}
