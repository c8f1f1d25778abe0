package declared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// history is the section of a definition that declares how prices of the past are asked for.
type history struct {
	Begin   *begin `yaml:"begin"`
	Request string `yaml:"request"`
	Unit    string `yaml:"unit"`
	Page    int    `yaml:"page"`
	Entries string `yaml:"entries"`
	Next    string `yaml:"next"`
	Read    read   `yaml:"read"`
}

// begin is a request whose answer says where the span begins.
type begin struct {
	Request string `yaml:"request"`
	Cursor  string `yaml:"cursor"`
}

// Places of the requests of a history, besides those of any.
const (
	fromPlace   = "from"
	toPlace     = "to"
	cursorPlace = "cursor"
)

// Words that Next may be, instead of jq.
const (
	nextTime = "time" // the next page begins at the time of the last entry
	nextID   = "id"   // and at its id
)

// past is the compiled form of a history. It is immutable.
type past struct {
	history
	begin   request
	cursor  program // of begin; nil code: there is none
	request request
	entries []string // the path of the list
	next    program  // nil code: Next is a word
	reading reading
}

// parseHistory compiles the section, if there is one. Faults are named below "history: ".
func (d *Definition) parseHistory(fault func(string, error)) {
	if d.file.History == nil {
		return
	}
	h := &past{history: *d.file.History}
	d.past = h
	within := func(key string, err error) { fault("history: "+key, err) }
	var err error
	h.request, err = parseBelow(h.Request, slices.Concat([]string{symbolPlace, fromPlace, toPlace, cursorPlace}, keyPlaces)...)
	if err == nil && (!h.request.has(symbolPlace) || !h.request.has(cursorPlace)) {
		err = errors.New("want {symbol} and {cursor} in it")
	}
	within("request", err)
	h.parseBegin(within)
	if !slices.Contains(units, h.Unit) {
		within("unit", fmt.Errorf("there is no unit %q of a time; %s", h.Unit, names.Hint(h.Unit, units)))
	}
	if h.Page < 1 || h.Page > pipeline.MaxHistoryEntries {
		within("page", fmt.Errorf("%d is not within 1 and %d", h.Page, pipeline.MaxHistoryEntries))
	}
	h.entries, err = parseEntries(h.Entries)
	within("entries", err)
	switch {
	case h.Next == nextID && h.Read.ID == "":
		within("next", errors.New("the entries have no id: say in read where it is"))
	case h.Next == "":
		within("next", errors.New("required: time, id, or a jq program that gives the cursor of the next page, such as .next"))
	case h.Next != nextTime && h.Next != nextID:
		h.next, err = compile(h.Next, symbolVariable, spelledVariable)
		within("next", err)
	}
	h.reading = parseRead(h.Read, func(key string, err error) { within("read: "+key, err) })
	switch {
	case h.Read.Entry != "" || h.Read.Symbol != "":
		within("read", errors.New("of an entry of a history there is no entry and no symbol: leave them out"))
	case h.Read.ID == "" && h.Read.Bar == nil:
		within("read: id", errors.New("required: what names the trade, as in the answers and the stream of the service"))
	}
}

func (h *past) parseBegin(within func(string, error)) {
	if h.Begin == nil {
		return
	}
	var err error
	h.begin, err = parseBelow(h.Begin.Request, slices.Concat([]string{symbolPlace, fromPlace, toPlace}, keyPlaces)...)
	if err == nil && !h.begin.has(symbolPlace) {
		err = errors.New("want {symbol} in it")
	}
	within("begin: request", err)
	h.cursor, err = compile(h.Begin.Cursor, symbolVariable, spelledVariable)
	if err == nil && h.Begin.Cursor == "" {
		err = errors.New("required: a jq program that gives the cursor of the first page")
	}
	within("begin: cursor", err)
}

// anyList as a step of a path stands for the first member that is a list.
const anyList = "*"

// parseEntries reads a path such as result.list.
func parseEntries(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	path := strings.Split(text, ".")
	if slices.Contains(path, "") || strings.ContainsAny(text, "[]\" ") {
		return nil, errors.New("want the names of members, such as result.list; * is the first that is a list")
	}
	return path, nil
}

// list finds the entries of an answer, byte for byte.
func list(raw json.RawMessage, path []string) ([]json.RawMessage, error) {
	for i, step := range path {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil {
			return nil, fmt.Errorf("%s: not an object", strings.Join(path[:i], "."))
		}
		found := members[step]
		if step == anyList {
			for _, name := range slices.Sorted(maps.Keys(members)) {
				if found == nil && strings.HasPrefix(strings.TrimSpace(string(members[name])), "[") {
					found = members[name]
				}
			}
		}
		if found == nil {
			return nil, fmt.Errorf("there is no %s", strings.Join(path[:i+1], "."))
		}
		raw = found
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%q: not a list", strings.Join(path, "."))
	}
	return entries, nil
}

// historian, streamingHistorian and changingHistorian are providers whose definition has a
// history, without a stream and with one.
type (
	historian          struct{ *provider }
	streamingHistorian struct{ *streamer }
	changingHistorian  struct{ changingStreamer }
)

var (
	_ pipeline.Historian = historian{}
	_ pipeline.Historian = streamingHistorian{}
	_ pipeline.Historian = changingHistorian{}
)

// History implements pipeline.Historian.
func (h historian) History(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	return h.history(ctx, r)
}

// History implements pipeline.Historian.
func (h streamingHistorian) History(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	return h.history(ctx, r)
}

// History implements pipeline.Historian.
func (h changingHistorian) History(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	return h.history(ctx, r)
}

func (p *provider) history(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	if !p.Configured() {
		return pipeline.HistoryPage{}, pipeline.Quotef(schema.CodeNotConfigured, "there is no key: set %s", KeySetting(p.file.Name))
	}
	spelled, err := p.spell(r.Symbol)
	if err != nil {
		return pipeline.HistoryPage{}, err
	}
	q := pastRequest{past: p.past, provider: p, asked: r, spelled: spelled}
	if r.Cursor == "" && p.past.cursor.code != nil {
		return q.findBegin(ctx)
	}
	return q.page(ctx)
}

// pastRequest is one call.
type pastRequest struct {
	*past
	provider *provider
	asked    pipeline.HistoryRequest
	spelled  string
}

// from is the earliest time that the service may give a price of the span. It names a bar by
// its begin, and we by its end.
func (q pastRequest) from() schema.Time {
	if bar := q.Read.Bar; bar != nil {
		return q.asked.From.Add(time.Microsecond - bar.Span)
	}
	return q.asked.From
}

// get asks, and returns the answer as it came and as JSON.
func (q pastRequest) get(ctx context.Context, of request, cursor string) (schema.RawResponse, any, error) {
	values := keyValues(q.provider.key)
	values[symbolPlace], values[cursorPlace] = q.spelled, cursor
	values[fromPlace], values[toPlace] = writeTime(q.from(), q.Unit, false), writeTime(q.asked.To, q.Unit, true)
	query, path := of.fill(values)
	raw, err := q.provider.client.GetJudged(ctx, query, path, func(status int, body []byte) *pipeline.QuoteError {
		return q.provider.refusal(status, body, q.asked.Symbol, q.spelled)
	})
	if err != nil {
		return nil, nil, err
	}
	value, err := q.decode(raw)
	return raw, value, err
}

// decode returns an answer as JSON, unless a rule of the definition says that it is an error.
func (q pastRequest) decode(raw schema.RawResponse) (any, error) {
	value, err := decodeAnswer(raw)
	if err != nil {
		return nil, err
	}
	if r := q.provider.judge(http.StatusOK, value, true, q.asked.Symbol, q.spelled); r != nil {
		return nil, pipeline.Quotef(r.Means, "the answer means %s, by rule %d of the definition", r.Means, r.number)
	}
	return value, nil
}

// findBegin asks where the first page begins. Where no price is as late as that, there is
// none.
func (q pastRequest) findBegin(ctx context.Context) (pipeline.HistoryPage, error) {
	_, value, err := q.get(ctx, q.begin, "")
	if err != nil {
		return pipeline.HistoryPage{}, err
	}
	cursor, err := q.textOf(value, q.cursor)
	if err != nil {
		return pipeline.HistoryPage{}, badResponse("history: begin: cursor", q.cursor, err)
	}
	if cursor == "" {
		return pipeline.HistoryPage{}, nil
	}
	return pipeline.HistoryPage{Next: atCursor + cursor}, nil
}

// A page begins at the entry that its cursor names, or after it.
const atCursor, afterCursor = "at ", "after "

// textOf is what a program gives; empty for null.
func (q pastRequest) textOf(value any, p program) (string, error) {
	found, err := p.run(value, string(q.asked.Symbol), q.spelled)
	if err != nil || found == nil {
		return "", err
	}
	return textOf(found)
}

// page asks for a page, whose cursor is the time at which the span begins where there is none
// yet.
func (q pastRequest) page(ctx context.Context) (pipeline.HistoryPage, error) {
	cursor, isAfter := strings.CutPrefix(q.asked.Cursor, afterCursor)
	if !isAfter {
		cursor = strings.TrimPrefix(cursor, atCursor)
	}
	if cursor == "" {
		cursor = writeTime(q.from(), q.Unit, false)
	}
	raw, value, err := q.get(ctx, q.request, cursor)
	if err != nil {
		return pipeline.HistoryPage{}, err
	}
	return q.take(raw, value, cursor, isAfter)
}

// take takes the answer about a page apart.
func (q pastRequest) take(raw schema.RawResponse, value any, cursor string, isAfter bool) (pipeline.HistoryPage, error) {
	texts, err := list(json.RawMessage(raw), q.entries)
	if err != nil {
		return pipeline.HistoryPage{}, pipeline.Quotef(schema.CodeBadResponse, "history: entries: %v", err)
	}
	var page pipeline.HistoryPage
	last := ""
	for _, text := range texts {
		entry, id, at, err := q.entry(text)
		if err != nil {
			return pipeline.HistoryPage{}, err
		}
		if last = at; q.Next == nextID {
			if last = id; isAfter && id == cursor {
				continue // it was the last one of the page before
			}
		}
		page.Entries = append(page.Entries, entry)
	}
	if q.next.code != nil {
		if last, err = q.textOf(value, q.next); err != nil {
			return pipeline.HistoryPage{}, badResponse("history: next", q.next, err)
		}
	}
	n := len(page.Entries)
	if n > 0 && page.Entries[0].Time.After(q.asked.To) {
		return page, nil
	}
	// A service that names its next page says itself which one is the last: it names none, or
	// one without prices again.
	if q.next.code == nil && (n == 0 || len(texts) < q.Page) || n == 0 && last == cursor {
		return page, nil
	}
	if last == cursor {
		return pipeline.HistoryPage{}, pipeline.Quotef(schema.CodeBadResponse, "history: a full page of %d prices ends where it began, at %.40q", n, cursor)
	}
	if last != "" {
		page.Next = afterCursor + last
	}
	return page, nil
}

// entry takes one entry of a page. id and at are its id and time, as cursors.
func (q pastRequest) entry(text json.RawMessage) (entry pipeline.HistoryEntry, id, at string, err error) {
	price, err := q.provider.normalizeEntry(q.asked.Symbol, q.spelled, schema.RawResponse(text), endOfTime)
	var refused *pipeline.QuoteError
	if errors.As(err, &refused) && refused.Code == schema.CodeBadPrice { // normalize rejects it, and the others come
		price.Time, err = q.provider.timeOfEntry(q.asked.Symbol, q.spelled, schema.RawResponse(text))
	}
	if err != nil {
		return entry, "", "", err
	}
	begins := price.Time
	if price.Bar != nil {
		begins = price.Bar.OpenTime
	}
	at = writeTime(begins, q.Unit, false)
	parts := []string{"history", string(q.provider.file.Name), string(q.asked.Symbol), begins.Text()}
	if price.Bar != nil {
		parts = append(parts, q.Read.Bar.Span.String())
	}
	if q.reading.id.code != nil {
		value, err := decodeAnswer(schema.RawResponse(text))
		if err == nil {
			id, err = q.textOf(value, q.reading.id)
		}
		if err == nil && id == "" {
			err = errNoValue
		}
		if err != nil {
			return entry, "", "", badResponse("history: read: id", q.reading.id, err)
		}
		if price.Bar == nil {
			// The id of a message of a stream about the same trade.
			parts = []string{"stream", string(q.provider.file.Name), string(q.asked.Symbol), id}
		}
	}
	return pipeline.HistoryEntry{ID: schema.DeriveID(parts...), RawResponse: schema.RawResponse(text), Time: price.Time}, id, at, nil
}

// endOfTime is when a bar of a page has ended in any case: one that has not is after the span.
var endOfTime = schema.NewTime(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))

// normalizeHistory reads the price of an entry that was kept with this version.
func (d *Definition) normalizeHistory(fetched schema.QuoteFetched) ([]pipeline.Price, error) {
	spelled, err := d.spell(fetched.Symbol)
	if err != nil {
		return nil, err
	}
	price, err := d.normalizeEntry(fetched.Symbol, spelled, fetched.RawResponse, fetched.ReceivedAt)
	if err != nil {
		return nil, err
	}
	return []pipeline.Price{price}, nil
}

// normalizeEntry reads the price of an entry. It is pure.
func (d *Definition) normalizeEntry(symbol schema.Symbol, spelled string, text schema.RawResponse, receivedAt schema.Time) (pipeline.Price, error) {
	if d.past == nil {
		return pipeline.Price{}, pipeline.Quotef(schema.CodeBadResponse, "the definition has no history")
	}
	value, err := decodeAnswer(text)
	if err != nil {
		return pipeline.Price{}, err
	}
	e := entry{said: d.past.Read, reading: d.past.reading, symbol: symbol, spelled: spelled, value: value}
	return e.read(receivedAt)
}

// timeOfEntry reads only when the price of an entry was one.
func (d *Definition) timeOfEntry(symbol schema.Symbol, spelled string, text schema.RawResponse) (schema.Time, error) {
	value, err := decodeAnswer(text)
	if err != nil {
		return schema.Time{}, err
	}
	e := entry{said: d.past.Read, reading: d.past.reading, symbol: symbol, spelled: spelled, value: value}
	return e.time()
}

// digits is how many digits of a count of nanoseconds a unit leaves out.
var digits = map[string]int{seconds: 9, milliseconds: 6, microseconds: 3, nanoseconds: 0}

// writeTime writes a time in a unit: rounded down, or up for the end of a span.
func writeTime(t schema.Time, unit string, up bool) string {
	switch unit {
	case rfc3339:
		return t.Text()
	case date:
		return t.UTC().Format(time.DateOnly)
	}
	step := int64(1)
	for range digits[unit] {
		step *= 10
	}
	count := t.UnixNano() / step
	if up && t.UnixNano()%step != 0 {
		count++
	}
	return strconv.FormatInt(count, 10)
}
