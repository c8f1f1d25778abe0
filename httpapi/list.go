package httpapi

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// Bounds of the parameter limit.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// listBody is a page of a list.
type listBody[T any] struct {
	Items []T `json:"items"`
	// NextCursor is empty on the last page.
	NextCursor string `json:"next_cursor,omitempty"`
	// Adjusted says that prices are adjusted for splits and dividends.
	Adjusted bool `json:"adjusted,omitempty"`
}

// newPage makes a page of rows, of which one more than limit was asked for: if
// it came, there is another page, which begins after the last row of this one.
func newPage[R, T any](rows []R, limit int, item func(R) T, cursor func(R) string) listBody[T] {
	var page listBody[T]
	if len(rows) > limit {
		rows = rows[:limit]
		page.NextCursor = cursor(rows[limit-1])
	}
	page.Items = make([]T, len(rows)) // an empty list, not null
	for i, row := range rows {
		page.Items[i] = item(row)
	}
	return page
}

// answerLast answers with the last of something, at most as many as the parameter
// limit says; what they are is for errors.
func answerLast[T any](a *API, w http.ResponseWriter, r *http.Request, what string, standard, most int64,
	list func(ctx context.Context, limit int) ([]T, error)) error {
	q := query{values: r.URL.Query()}
	limit := q.integer("limit", standard, 1, most)
	if err := q.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := list(ctx, int(limit))
	if err != nil {
		return fmt.Errorf("listing the %s: %w", what, err)
	}
	// An empty list, not null.
	a.writeState(w, r, listBody[T]{Items: append([]T{}, found...)})
	return nil
}

// linkNext points to the next page, as RFC 8288 has it: this request with
// another cursor.
func linkNext(w http.ResponseWriter, r *http.Request, cursor string) {
	if cursor == "" {
		return
	}
	values := r.URL.Query()
	values.Set("cursor", cursor)
	asked := query{values: values}
	if text, _ := asked.get("as_of_log"); text == asOfNow { // the next page is as of where this one was
		values.Set("as_of_log", w.Header().Get("X-Log-Position"))
	}
	// The path as it is documented, however this client escaped it.
	next := url.URL{Path: r.URL.Path, RawQuery: values.Encode()}
	w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
}

func (q *query) limit() int { return int(q.integer("limit", defaultLimit, 1, maxLimit)) }

// cursor reads the place, of least to most parts, that the parameter cursor stands
// for; nil where it is absent.
func (q *query) cursor(of listing, least, most int) []string {
	text, given := q.get("cursor")
	if !given {
		return nil
	}
	place, ok := of.place(text, least, most)
	if !ok {
		q.faults = append(q.faults, inQuery("cursor", text).notCursor())
		return nil
	}
	return place
}

// hadPlus reports whether a text is a time but for the space that was a plus sign.
func hadPlus(text string) bool {
	_, err := schema.ParseTime(strings.Replace(text, " ", "+", 1))
	return err == nil
}

// time reads an instant; the zero value where it is absent.
func (q *query) time(name string) schema.Time {
	text, given := q.get(name)
	if !given {
		return schema.Time{}
	}
	t, err := schema.ParseTime(text)
	switch {
	case err != nil && hadPlus(text):
		q.faults = append(q.faults, inQuery(name, text).notTime("a plus sign in a URL is a space: write it as %2B"))
	case err != nil:
		q.faults = append(q.faults, inQuery(name, text).notTime("not RFC 3339, such as 2025-06-15T14:30:00Z"))
	case t.Year() < 1 || t.Year() > 9999: // an offset may lead out of it
		q.faults = append(q.faults, inQuery(name, text).notTime("year is out of range"))
	}
	return t
}

// preferred is the one of some types that a client would rather have than JSON and the
// others, as its Accept header has it (RFC 9110, 12.5.1); of two that it wants alike, the
// first. It is empty where there is none.
func preferred(r *http.Request, offered ...string) (media string) {
	qualities := make([]quality, len(offered)+1) // the last is JSON's
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		accepted, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q, err := strconv.ParseFloat(params["q"], 64)
		if err != nil {
			q = 1
		}
		for i, one := range offered {
			qualities[i].see(accepted, one, q)
		}
		qualities[len(offered)].see(accepted, jsonContent, q)
	}
	best := qualities[len(offered)].q
	for i, one := range offered {
		if qualities[i].q > best {
			media, best = one, qualities[i].q
		}
	}
	return media
}

// namesMedia reports whether a client accepts a type by its name, and not just among others.
func namesMedia(r *http.Request, media string) bool {
	for _, header := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(header, ",") {
			accepted, params, err := mime.ParseMediaType(part)
			if err != nil || accepted != media {
				continue
			}
			if q, err := strconv.ParseFloat(params["q"], 64); err != nil || q > 0 {
				return true
			}
		}
	}
	return false
}

// quality is how much a client wants a type, by the most specific of its ranges
// that fits.
type quality struct {
	q     float64
	exact int // 0 for */*, 2 for a type itself
	seen  bool
}

func (c *quality) see(media, offered string, q float64) {
	family, _, _ := strings.Cut(offered, "/")
	for exact, fits := range []string{"*/*", family + "/*", offered} {
		if media == fits && (!c.seen || exact >= c.exact) {
			*c = quality{q, exact, true}
		}
	}
}
