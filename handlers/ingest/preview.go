package ingest

import (
	"errors"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Preview is the beginning of a file as it would be taken.
type Preview struct {
	Quotes []PreviewQuote `json:"quotes"`
	// Bad are lines between them that should hold a quote and do not.
	Bad []PreviewNote `json:"bad"`
	// Notes say what the reader assumed.
	Notes []PreviewNote `json:"notes"`
}

// PreviewQuote is one quote.
type PreviewQuote struct {
	Line    int            `json:"line"`
	Symbol  schema.Symbol  `json:"symbol"`
	Price   schema.Decimal `json:"price"`
	Size    schema.Decimal `json:"size,omitzero"`
	Time    schema.Time    `json:"timestamp"`
	Bar     *schema.Bar    `json:"bar,omitempty"`
	Rounded bool           `json:"rounded,omitempty"`
}

// PreviewNote is what there is to say about a line.
type PreviewNote struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

// maxPreviewBad is how many bad lines a preview skips.
const maxPreviewBad = 5

// Look reads up to n quotes of a file and sends none. The error is the one that ended
// reading before; what was read comes with it.
func Look(cfg Config, n int) (p Preview, err error) {
	p = Preview{Quotes: []PreviewQuote{}, Bad: []PreviewNote{}, Notes: []PreviewNote{}}
	for line, err := range cfg.Reader.ReadFile(cfg.File, cfg.Options) {
		leaveUnfinished(&line, cfg.Now())
		for _, note := range line.Notes {
			p.Notes = append(p.Notes, PreviewNote{line.Number, note})
		}
		var prices []pipeline.Price
		if err == nil && line.ID != "" {
			prices, err = cfg.Reader.Normalize(line.Quote)
		}
		if err != nil {
			var bad *pipeline.LineError
			if !errors.As(err, &bad) {
				return p, err
			}
			p.Bad = append(p.Bad, PreviewNote{bad.Line, bad.Error()})
		}
		for _, price := range prices {
			p.Quotes = append(p.Quotes, PreviewQuote{line.Number, price.Symbol, price.Price, price.Size, price.Time, price.Bar, line.Rounded})
		}
		if len(p.Quotes) >= n || len(p.Bad) >= maxPreviewBad {
			break
		}
	}
	return p, nil
}
