package declared

import (
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Field is something that a definition reads or asks, for people.
type Field struct {
	Name  string `json:"name"`
	From  string `json:"from,omitempty"` // what the definition says
	Value string `json:"value,omitempty"`
}

// Asks explains the request for a symbol. The key is shown as {key}.
func (d *Definition) Asks(symbol schema.Symbol) ([]Field, error) {
	spelled, err := d.spell(symbol)
	if err != nil {
		return nil, err
	}
	return []Field{{"symbol", d.file.Symbol, spelled}, {"request", d.file.Request, d.address(d.request, spelled, shownKey())}}, nil
}

// address is the URL of a request, with places as they are.
func (d *Definition) address(of request, spelled string, places map[string]string) string {
	values := maps.Clone(places)
	values[symbolPlace] = spelled
	query, path := of.fill(values)
	for i := range path {
		path[i] = url.PathEscape(path[i])
	}
	address := strings.TrimRight(d.file.BaseURL, "/") + "/" + strings.Join(path, "/")
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	return unescape(address, places)
}

// unescapeKey makes {key} readable in a URL.
func unescapeKey(address string) string { return unescape(address, shownKey()) }

func unescape(address string, places map[string]string) string {
	for _, place := range places {
		address = strings.ReplaceAll(strings.ReplaceAll(address, url.QueryEscape(place), place), url.PathEscape(place), place)
	}
	return address
}

// Reads explains what Quote and Normalize make of an answer with a status. The error is a
// *pipeline.QuoteError, which says what the answer means instead of a price.
func (d *Definition) Reads(fetched schema.QuoteFetched, status int) ([]Field, error) {
	spelled, err := d.spell(fetched.Symbol)
	if err != nil {
		return nil, err
	}
	if failure := d.refusal(status, fetched.RawResponse, fetched.Symbol, spelled); failure != nil {
		return nil, failure
	}
	if status != http.StatusOK {
		return nil, rest.Refused(&http.Response{StatusCode: status}, "", fetched.ReceivedAt.Time)
	}
	prices, err := d.Normalize(fetched)
	if err != nil {
		return nil, err
	}
	if err := prices[0].CheckAhead(fetched.ReceivedAt); err != nil {
		return nil, err
	}
	return d.file.Read.fields(prices[0]), nil
}

// fields are what was read of a price.
func (r read) fields(price pipeline.Price) []Field {
	size, sequence, volume := "", "", ""
	if price.Size.Sign() != 0 {
		size = price.Size.String()
	}
	if price.Sequence != 0 {
		sequence = strconv.FormatInt(int64(price.Sequence), 10)
	}
	at := Field{"time", r.Time, price.Time.Text()}
	if b := price.Bar; b != nil {
		if b.Volume != nil {
			volume = b.Volume.String()
		}
		return []Field{{"open", r.Bar.Open, b.Open.String()}, {"high", r.Bar.High, b.High.String()}, {"low", r.Bar.Low, b.Low.String()},
			{"close", r.Bar.Close, b.Close.String()}, {"volume", r.Bar.Volume, volume}, {"begin", r.Time, b.OpenTime.Text()},
			{"end", r.Bar.Span.String(), price.Time.Text()}, {"id", r.ID, sequence}}
	}
	return []Field{{"price", r.Price, price.Price.String()}, at, {"size", r.Size, size}, {"id", r.ID, sequence}}
}
