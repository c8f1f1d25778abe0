package httpapi

import (
	"net/http"

	"github.com/pricemill/pricemill/httpapi/chart"
	"github.com/pricemill/pricemill/schema"
)

// chartBody is what the SVG of the same parameters shows, in numbers.
type chartBody struct {
	Symbol   schema.Symbol   `json:"symbol"`
	Provider schema.Provider `json:"provider"`
	Interval string          `json:"interval"`
	// Bars are oldest first.
	Bars []barBody `json:"bars"`
	// Lines are in the order of the picture.
	Lines []lineBody `json:"lines"`
	// Plot is where the SVG shows them; left out where there are no bars.
	Plot *chart.Plot `json:"plot,omitempty"`
}

type barBody struct {
	Start  schema.Time     `json:"start"`
	Open   schema.Decimal  `json:"open"`
	High   schema.Decimal  `json:"high"`
	Low    schema.Decimal  `json:"low"`
	Close  schema.Decimal  `json:"close"`
	Volume *schema.Decimal `json:"volume"`
}

// lineBody has a value for each bar, null where there is none.
type lineBody struct {
	Name   string            `json:"name"`
	Values []*schema.Decimal `json:"values"`
}

// getChartNumbers answers with the numbers of a chart.
func (a *API) getChartNumbers(w http.ResponseWriter, r *http.Request) error {
	asked, picture, err := a.readPicture(w, r)
	if err != nil {
		return err
	}
	return writeQuote(w, r, newChartBody(asked, picture))
}

func newChartBody(asked chartQuery, p chart.Picture) chartBody {
	body := chartBody{Symbol: asked.Symbol, Provider: asked.Provider, Interval: p.Interval.Name, Bars: []barBody{}, Lines: []lineBody{}}
	for _, b := range p.Bars {
		body.Bars = append(body.Bars, barBody{b.Start, b.Open, b.High, b.Low, b.Close, b.Volume})
	}
	for _, line := range p.Lines {
		body.Lines = append(body.Lines, lineBody{line.Label, line.Values})
	}
	if len(p.Bars) > 0 {
		plot := p.Plot()
		body.Plot = &plot
	}
	return body
}
