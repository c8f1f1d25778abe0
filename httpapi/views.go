package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// DefaultViewAge is how old a member's price may be in the views that ask no provider:
// twice the shortest interval that polling jobs have by default.
const DefaultViewAge = 2 * time.Minute

// memberStatus says what a member has to do with an answer.
type memberStatus string

const (
	memberChosen  memberStatus = "chosen"  // the answer is its value, or the mean of its and another one's
	memberCounted memberStatus = "counted" // it was compared with the others
	memberStale   memberStatus = "stale"   // it is older than max_age
	memberUnknown memberStatus = "unknown" // it has no price
)

// viewPrice answers GET latest across providers.
type viewPrice struct {
	Symbol     schema.Symbol   `json:"symbol"` // the name of the instrument
	Price      exactMean       `json:"price"`
	Timestamp  schema.Time     `json:"timestamp"`
	Provider   schema.Provider `json:"provider"` // the name of the view
	Instrument instrumentBody  `json:"instrument"`
	Members    []memberPrice   `json:"members"`
}

// viewAverage answers GET moving-average across providers.
type viewAverage struct {
	Symbol     schema.Symbol   `json:"symbol"`
	WindowSize int             `json:"window_size"`
	Value      exactMean       `json:"value"`
	Timestamp  schema.Time     `json:"timestamp"`
	Provider   schema.Provider `json:"provider"`
	Instrument instrumentBody  `json:"instrument"`
	Members    []memberAverage `json:"members"`
}

// instrumentBody is an instrument of the symbol map; what the map does not say is null.
type instrumentBody struct {
	Name     schema.Symbol `json:"name"`
	Currency *string       `json:"currency"`
	Class    *string       `json:"class"`
}

// memberPrice is a member with its last price, null where it has none.
type memberPrice struct {
	Provider   schema.Provider `json:"provider"`
	Symbol     schema.Symbol   `json:"symbol"`
	Status     memberStatus    `json:"status"`
	Price      *schema.Decimal `json:"price"`
	Timestamp  *schema.Time    `json:"timestamp"`
	ReceivedAt *schema.Time    `json:"received_at"`
}

// memberAverage is a member with its average, null where it has none.
type memberAverage struct {
	Provider  schema.Provider `json:"provider"`
	Symbol    schema.Symbol   `json:"symbol"`
	Status    memberStatus    `json:"status"`
	Value     *schema.Decimal `json:"value"`
	Timestamp *schema.Time    `json:"timestamp"`
}

// exactMean is the mean of two decimals, or of one and itself. It may have one digit more
// after the point than a Decimal has room for.
type exactMean struct{ a, b schema.Decimal }

// MarshalJSON implements json.Marshaler.
func (m exactMean) MarshalJSON() ([]byte, error) { return []byte(m.String()), nil }

func (m exactMean) String() string {
	if m.a.Cmp(m.b) == 0 {
		return m.a.String()
	}
	// a half is 5 in the place after the last one
	halves := new(big.Int).Add(m.a.Units(), m.b.Units())
	halves.Mul(halves, big.NewInt(5))
	sign := ""
	if halves.Sign() < 0 {
		sign = "-"
		halves.Neg(halves)
	}
	const places = schema.MaxFractionDigits + 1
	digits := halves.String()
	digits = strings.Repeat("0", max(0, places+1-len(digits))) + digits
	point := len(digits) - places
	fraction := strings.TrimRight(digits[point:], "0")
	if fraction == "" {
		return sign + digits[:point]
	}
	return sign + digits[:point] + "." + fraction
}

// candidate is a member as a view compares it.
type candidate struct {
	value schema.Decimal
	// at and received order the freshest; received is the zero value where it does not count.
	at, received schema.Time
	status       memberStatus
}

// newView answers of the members that are counted, in the order of the map: it marks those
// that it chose, and returns false where none is counted. The timestamp is the newest event
// time among what was chosen from: of the median all that are counted.
func newView(view schema.Provider, members []candidate) (mean exactMean, at schema.Time, ok bool) {
	var counted []int
	for i := range members {
		if members[i].status == memberCounted {
			counted = append(counted, i)
		}
	}
	if len(counted) == 0 {
		return exactMean{}, schema.Time{}, false
	}
	if view == schema.ViewMedian {
		for _, i := range counted {
			if members[i].at.After(at) {
				at = members[i].at
			}
		}
		slices.SortStableFunc(counted, func(i, j int) int { return members[i].value.Cmp(members[j].value) })
		low, high := counted[(len(counted)-1)/2], counted[len(counted)/2]
		members[low].status, members[high].status = memberChosen, memberChosen
		return exactMean{members[low].value, members[high].value}, at, true
	}
	chosen := counted[0]
	if view == schema.ViewFreshest {
		for _, i := range counted[1:] {
			one, best := members[i], members[chosen]
			if cmp.Or(one.at.Compare(best.at), one.received.Compare(best.received)) > 0 {
				chosen = i
			}
		}
	}
	members[chosen].status = memberChosen
	return exactMean{members[chosen].value, members[chosen].value}, members[chosen].at, true
}

// view is the view that a request names as its provider, if it names one.
func (q *query) view() (view schema.Provider, is bool) {
	name, _ := q.get("provider")
	view = schema.Provider(name)
	return view, view.IsView()
}

// findInstrument finds what a symbol stands for across providers.
func (a *API) findInstrument(view schema.Provider, symbol schema.Symbol) (symbolmap.Instrument, error) {
	if a.config.SymbolMap.Len() == 0 {
		return symbolmap.Instrument{}, newError(codeNotFound, "There is no symbol map, and provider=%s needs one: see SYMBOL_MAP_FILE", view)
	}
	instrument, err := a.config.SymbolMap.Find(symbol)
	switch {
	case errors.Is(err, symbolmap.ErrAmbiguous):
		return instrument, faults{inQuery("symbol", string(symbol)).wrong(err.Error() + "; name one of them")}
	case err != nil:
		return instrument, newError(codeNotFound, "No instrument of the symbol map is named %s, or has a member of this symbol", symbol)
	}
	return instrument, nil
}

func newInstrumentBody(i symbolmap.Instrument) instrumentBody {
	return instrumentBody{i.Name, unlessZero(i.Currency), unlessZero(i.Class)}
}

// byProvider are the symbols of an instrument's members, and the providers in the order of
// the map.
func byProvider(i symbolmap.Instrument) (order []schema.Provider, symbols map[schema.Provider][]schema.Symbol) {
	symbols = map[schema.Provider][]schema.Symbol{}
	for _, m := range i.Members {
		if symbols[m.Provider] == nil {
			order = append(order, m.Provider)
		}
		symbols[m.Provider] = append(symbols[m.Provider], m.Symbol)
	}
	return order, symbols
}

// latestOfView is what GET latest asks for across providers.
type latestOfView struct {
	view       schema.Provider
	instrument symbolmap.Instrument
	maxAge     time.Duration
	stale      bool
}

func (a *API) readLatestOfView(q query, view schema.Provider) (latestOfView, error) {
	asked := latestOfView{view: view, maxAge: DefaultViewAge}
	if view == schema.ViewAny {
		asked.maxAge = a.config.MaxAge
	}
	symbol := q.symbol()
	asked.maxAge = q.seconds("max_age", asked.maxAge, MaxMaxAge)
	asked.stale = q.choice("stale", "allow", "deny")
	if err := q.faults.orNil(); err != nil {
		return asked, err
	}
	var err error
	asked.instrument, err = a.findInstrument(view, symbol)
	return asked, err
}

// getLatestOfView answers of the prices of an instrument's members that are known. Only any
// has a provider asked, and one at the most: the first that can be, where no member is fresh.
func (a *API) getLatestOfView(w http.ResponseWriter, r *http.Request, q query, view schema.Provider) error {
	asked, err := a.readLatestOfView(q, view)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.latestOfMembers(ctx, asked.instrument)
	if err != nil {
		return err
	}
	fresh := func(p latestprices.Price) bool { return a.fetcher.fresh(p, asked.maxAge) }
	if answer, ok := a.viewOf(asked, known, fresh); ok {
		return a.writeView(w, r, answer)
	}
	failure := error(newError(codeNotFound, "No member of %s has a price that was received less than %v ago%s", asked.instrument.Name, asked.maxAge, offerOlder(known)))
	if view == schema.ViewAny {
		fetched, can, err := a.fetchMember(w, r, asked)
		if can && err == nil {
			known[symbolmap.Member{Provider: fetched.Provider, Symbol: fetched.Symbol}] = fetched
			// The provider was asked for this answer: it is fresh even if max_age is 0.
			answer, _ := a.viewOf(asked, known, func(p latestprices.Price) bool { return p == fetched })
			return a.writeView(w, r, answer)
		}
		if can {
			nameRequestOf(w, err)
			if failure = err; !a.staleWillDo(r, err) {
				return failure
			}
		}
	}
	if asked.stale {
		if answer, ok := a.viewOf(asked, known, func(latestprices.Price) bool { return true }); ok {
			return a.writeView(w, r, answer)
		}
	}
	return failure
}

// offerOlder says how to get an older price, if there is one.
func offerOlder(known map[symbolmap.Member]latestprices.Price) string {
	var newest schema.Time
	for _, p := range known {
		if p.ReceivedAt.After(newest) {
			newest = p.ReceivedAt
		}
	}
	if len(known) == 0 {
		return ", or any price"
	}
	return "; stale=allow answers of older ones, the last of " + newest.Format(time.RFC3339Nano)
}

// latestOfMembers reads the prices of those members that have one, by a query a provider.
func (a *API) latestOfMembers(ctx context.Context, i symbolmap.Instrument) (map[symbolmap.Member]latestprices.Price, error) {
	known := map[symbolmap.Member]latestprices.Price{}
	order, symbols := byProvider(i)
	for _, provider := range order {
		found, err := a.ports.LatestPrices.LatestOf(ctx, provider, symbols[provider])
		if err != nil {
			return nil, fmt.Errorf("reading the latest prices of %s at %s: %w", i.Name, provider, err)
		}
		for i, price := range found {
			if price != nil {
				known[symbolmap.Member{Provider: provider, Symbol: symbols[provider][i]}] = *price
			}
		}
	}
	return known, nil
}

// fetchMember asks the first provider of the map that can be asked, if one can.
func (a *API) fetchMember(w http.ResponseWriter, r *http.Request, asked latestOfView) (price latestprices.Price, can bool, err error) {
	askable := map[schema.Provider]bool{}
	for _, info := range a.ports.ProviderInfo() {
		askable[info.Name] = info.Configured
	}
	for _, m := range asked.instrument.Members {
		if askable[m.Provider] {
			price, requestID, err := a.fetcher.get(r.Context(), m.Provider, m.Symbol, asked.maxAge)
			nameRequest(w, requestID)
			return price, true, err
		}
	}
	return latestprices.Price{}, false, nil
}

// answeredView is an answer, and the age of the oldest receipt that it rests on.
type answeredView struct {
	body viewPrice
	age  time.Duration
}

// viewOf is the answer of the prices that are fresh; false where there are none.
func (a *API) viewOf(asked latestOfView, known map[symbolmap.Member]latestprices.Price, fresh func(latestprices.Price) bool) (answeredView, bool) {
	members := asked.instrument.Members
	candidates := make([]candidate, len(members))
	for i, m := range members {
		price, found := known[m]
		candidates[i] = candidate{price.Price, price.Timestamp, price.ReceivedAt, memberUnknown}
		switch {
		case found && fresh(price):
			candidates[i].status = memberCounted
		case found:
			candidates[i].status = memberStale
		}
	}
	mean, at, ok := newView(asked.view, candidates)
	if !ok {
		return answeredView{}, false
	}
	answer := answeredView{body: viewPrice{asked.instrument.Name, mean, at, asked.view, newInstrumentBody(asked.instrument), make([]memberPrice, len(members))}}
	now := a.config.Now()
	for i, m := range members {
		c := &candidates[i]
		answer.body.Members[i] = memberPrice{Provider: m.Provider, Symbol: m.Symbol, Status: c.status}
		if c.status != memberUnknown {
			answer.body.Members[i].Price, answer.body.Members[i].Timestamp, answer.body.Members[i].ReceivedAt = &c.value, &c.at, &c.received
		}
		if c.status == memberChosen || c.status == memberCounted && asked.view == schema.ViewMedian {
			answer.age = max(answer.age, now.Sub(c.received.Time))
		}
	}
	return answer, true
}

func (a *API) writeView(w http.ResponseWriter, r *http.Request, answer answeredView) error {
	w.Header().Set("Age", strconv.FormatInt(int64(answer.age/time.Second), 10))
	for _, m := range answer.body.Members { // the prices of all are made up, or of none
		a.markSimulated(w, m.Provider)
	}
	return writeQuote(w, r, answer.body)
}

// getAverageOfView answers of the averages of an instrument's members, each of its own last
// prices.
func (a *API) getAverageOfView(w http.ResponseWriter, r *http.Request, q query, view schema.Provider) error {
	symbol := q.symbol()
	window := q.window(a.config.DefaultWindow)
	asOf := q.time("as_of")
	if err := q.faults.orNil(); err != nil {
		return err
	}
	instrument, err := a.findInstrument(view, symbol)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.averagesOfMembers(ctx, instrument, window, asOf)
	if err != nil {
		return err
	}
	candidates := make([]candidate, len(instrument.Members))
	for i, m := range instrument.Members {
		average, found := known[m]
		candidates[i] = candidate{value: average.Value, at: average.Timestamp, status: memberUnknown}
		if found {
			candidates[i].status = memberCounted
		}
	}
	mean, at, ok := newView(view, candidates)
	if !ok {
		return newError(codeNotFound, "Moving average not found: no member of %s has a price", instrument.Name)
	}
	body := viewAverage{instrument.Name, window, mean, at, view, newInstrumentBody(instrument), make([]memberAverage, len(candidates))}
	for i, m := range instrument.Members {
		body.Members[i] = memberAverage{Provider: m.Provider, Symbol: m.Symbol, Status: candidates[i].status}
		if candidates[i].status != memberUnknown {
			body.Members[i].Value, body.Members[i].Timestamp = &candidates[i].value, &candidates[i].at
		}
		a.markSimulated(w, m.Provider)
	}
	return writeQuote(w, r, body)
}

// averagesOfMembers reads the averages of those members that have one, as of an event time,
// or now if that is the zero value.
func (a *API) averagesOfMembers(ctx context.Context, i symbolmap.Instrument, window int, asOf schema.Time) (map[symbolmap.Member]movingaverages.Average, error) {
	known := map[symbolmap.Member]movingaverages.Average{}
	order, symbols := byProvider(i)
	for _, provider := range order {
		if asOf.IsZero() {
			found, err := a.ports.Averages.AveragesOf(ctx, provider, symbols[provider], window)
			if err != nil {
				return nil, fmt.Errorf("reading the averages of %d prices of %s at %s: %w", window, i.Name, provider, err)
			}
			for i, average := range found {
				if average != nil {
					known[symbolmap.Member{Provider: provider, Symbol: symbols[provider][i]}] = *average
				}
			}
			continue
		}
		for _, symbol := range symbols[provider] {
			average, err := a.ports.Averages.AsOf(ctx, provider, symbol, window, asOf)
			switch {
			case err == nil:
				known[symbolmap.Member{Provider: provider, Symbol: symbol}] = average
			case !errors.Is(err, projections.ErrNotFound):
				return nil, fmt.Errorf("reading the average of %d prices of %s at %s: %w", window, symbol, provider, err)
			}
		}
	}
	return known, nil
}
