package httpapi

import (
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/projections/movingaverages"
)

// missedBody is the data of an event missed.
type missedBody struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Count int64  `json:"count"`
}

// resetBody is the data of an event reset.
type resetBody struct {
	Reason string `json:"reason"`
}

// renderPush is the data of an event: what the routes answer for the same thing.
func (a *API) renderPush(value any) []byte {
	text, err := encode(a.pushBody(value))
	if err != nil { // none of the bodies can fail
		return []byte("null")
	}
	return text
}

func (a *API) pushBody(value any) any {
	switch v := value.(type) {
	case latestprices.Price:
		return pastPrice{Symbol: v.Symbol, Provider: v.Provider, Price: v.Price, Timestamp: v.Timestamp, ReceivedAt: v.ReceivedAt}
	case movingaverages.Average:
		return averageBody{v.Symbol, v.Window, v.Value, v.Timestamp}
	case live.Point:
		return pointItem(v)
	case live.Snapshot:
		return a.snapshotItem(v)
	case live.Missed:
		return missedBody(v)
	case live.Reset:
		return resetBody(v)
	}
	return nil
}

// pointItem is a point as GET indicators/{indicator} lists it.
func pointItem(p live.Point) indicatorItem {
	values := []any{p.Symbol, p.Provider}
	for _, parameter := range p.Doc.Repeated() {
		values = append(values, p.Parameters[parameter.Name])
	}
	return indicatorItem{namesOf(indicatorColumns(p.Doc)), append(append(values, p.Timestamp), p.Values...)}
}

// snapshotItem has a member for each kind of event, null where there is nothing yet.
func (a *API) snapshotItem(s live.Snapshot) indicatorItem {
	item := indicatorItem{[]string{"symbol", "provider", "simulated"}, []any{s.Symbol, s.Provider, a.isSimulated(s.Provider)}}
	for _, part := range s.Parts {
		item.columns = append(item.columns, part.Name)
		item.values = append(item.values, a.pushBody(part.Value))
	}
	return item
}
