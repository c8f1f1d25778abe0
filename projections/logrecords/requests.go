package logrecords

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// outcome is a row of the read model of requests.
type outcome struct {
	RequestID string          `db:"request_id"`
	Provider  schema.Provider `db:"provider"`
	Symbol    schema.Symbol   `db:"symbol"`
	State     string          `db:"state"`
	Price     *schema.Decimal `db:"price"`
	Timestamp *schema.Time    `db:"timestamp"`
	Received  *schema.Time    `db:"received_at"`
	Code      schema.Code     `db:"code"`
	Reason    string          `db:"reason"`
	OutcomeID int64           `db:"outcome_id"`
	AskedAt   schema.Time     `db:"asked_at"`
	Deadline  *schema.Time    `db:"deadline"`
	SettledAt *schema.Time    `db:"settled_at"`
	AnswerID  string          `db:"raw_response_id"`
}

const selectOutcomes = `SELECT request_id, provider, symbol, state, price, timestamp, received_at, code, reason, outcome_id, asked_at, deadline, settled_at, raw_response_id FROM requests `

// The states of requests whose outcomes are on quote-outcomes.
const (
	failed    = "failed"
	rejected  = "rejected"
	unchanged = "unchanged"
)

// is reports whether an event may be this outcome.
func (o outcome) is(p schema.Payload) bool {
	switch p := p.(type) {
	case schema.QuoteRejected:
		return o.State == rejected && o.Symbol == p.Symbol
	case schema.QuoteUnchanged:
		return o.State == unchanged && o.Symbol == p.Symbol
	}
	return false
}

// event is the outcome itself; false where it is on another topic.
func (o outcome) event() (schema.Event, schema.Time, bool) {
	quote := schema.Quote{Provider: o.Provider, Symbol: o.Symbol, RequestID: o.RequestID}
	if o.SettledAt == nil {
		return schema.Event{}, schema.Time{}, false
	}
	at := *o.SettledAt
	switch o.State {
	case failed:
		return schema.Event{ID: schema.DeriveID(fetch, o.RequestID), Source: pipeline.SourcePrefix + fetch,
			Payload: schema.QuoteFailed{Quote: quote, Code: o.Code, Reason: o.Reason, FailedAt: at}}, at, true
	case rejected:
		return schema.Event{ID: schema.DeriveID(refillEvents, rejected, o.RequestID), Source: refillEvents,
			Payload: schema.QuoteRejected{Quote: quote, RawResponseID: o.AnswerID, Code: o.Code, Reason: o.Reason, ReceivedAt: at}}, at, true
	case unchanged:
		if o.Price == nil || o.Timestamp == nil {
			break
		}
		return schema.Event{ID: schema.DeriveID(refillEvents, unchanged, o.RequestID), Source: refillEvents,
			Payload: schema.QuoteUnchanged{Quote: quote, RawResponseID: o.AnswerID, Price: *o.Price, Timestamp: *o.Timestamp, ReceivedAt: at}}, at, true
	}
	return schema.Event{}, at, false
}

// outcomesOf reads the outcomes of requests.
func (l *Layout) outcomesOf(ctx context.Context, ids []string) (map[string]outcome, error) {
	rows, err := store.SelectIn[outcome](ctx, l.View, selectOutcomes+`WHERE request_id IN (?)`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the outcomes of requests: %w", err)
	}
	all := make(map[string]outcome, len(rows))
	for _, row := range rows {
		all[row.RequestID] = row
	}
	return all, nil
}

// eachRequest calls f with all requests, by their ids.
func (l *Layout) eachRequest(ctx context.Context, f func(outcome) error) error {
	for after := ""; ; {
		var rows []outcome
		if err := l.View.Select(ctx, &rows, selectOutcomes+`WHERE request_id > $1 ORDER BY request_id LIMIT $2`, after, answerPage); err != nil {
			return fmt.Errorf("reading the requests: %w", err)
		}
		for _, row := range rows {
			after = row.RequestID
			if err := f(row); err != nil {
				return err
			}
		}
		if len(rows) < answerPage {
			return nil
		}
	}
}

// placeOutcomes puts the outcomes that follow from no answer where they were.
func (l *Layout) placeOutcomes(ctx context.Context) error {
	return l.eachRequest(ctx, func(o outcome) error {
		part, offset, ok := l.place(schema.QuoteOutcomes, o.OutcomeID)
		if !ok {
			return nil
		}
		p := l.at(schema.QuoteOutcomes, part)
		event, at, there := o.event()
		if !there || p.Has(offset) {
			return nil
		}
		link := refill.Unlinked
		if o.State == failed {
			link = refill.Linked
		}
		slot, err := l.literal(event, at, link)
		slot.Offset = offset
		if p.Put(slot) {
			l.countFailure(event.Payload)
		}
		return err
	})
}

// placeRequests puts the requests on their partitions, in the order in which they were made.
// Stages only look for who asked, so any order gives the same rows.
func (l *Layout) placeRequests(ctx context.Context) error {
	return l.eachRequest(ctx, func(o outcome) error {
		if o.Deadline == nil {
			return nil // the request itself was not read yet
		}
		return l.placeRequest(o)
	})
}

// placeDeleted gives requests again that retention has deleted and that were answered within what is
// kept: without them, their outcomes would make rows that retention had not deleted. When they were
// made is not known, only that it was before what is kept.
func (l *Layout) placeDeleted(ctx context.Context) error {
	kept, known, err := l.keptFrom(ctx)
	if err != nil || !known {
		return err
	}
	before := kept.Add(-forgottenBefore)
	var rows []outcome
	err = l.View.Select(ctx, &rows, `SELECT DISTINCT request_id, provider, symbol FROM raw_market_data
		WHERE request_id <> '' AND timestamp >= $1 AND timestamp < $2 AND request_id NOT IN (SELECT request_id FROM requests) ORDER BY request_id`,
		kept, kept.Add(longestRequest))
	if err != nil {
		return fmt.Errorf("reading the answers to requests that were deleted: %w", err)
	}
	for _, row := range rows {
		row.AskedAt, row.Deadline = before, &before
		if err := l.placeRequest(row); err != nil {
			return err
		}
	}
	return nil
}

// keptFrom is the time before which requests were deleted; false where none were.
func (l *Layout) keptFrom(ctx context.Context) (schema.Time, bool, error) {
	var kept []schema.Time
	if err := l.View.Select(ctx, &kept, `SELECT kept_from FROM retention WHERE name = 'requests'`); err != nil {
		return schema.Time{}, false, fmt.Errorf("reading what is kept of requests: %w", err)
	}
	if len(kept) == 0 {
		return schema.Time{}, false, nil
	}
	return kept[0], true, nil
}

// placeQueue gives the requests that wait for an outcome, and that the read model has not read.
func (l *Layout) placeQueue(ctx context.Context) error {
	var rows []outcome
	err := l.View.Select(ctx, &rows, `SELECT request_id, provider, symbol, requested_at AS asked_at, deadline FROM fetch_queue
		WHERE request_id NOT IN (SELECT request_id FROM requests WHERE deadline IS NOT NULL) ORDER BY request_id`)
	if err != nil {
		return fmt.Errorf("reading the requests that wait: %w", err)
	}
	for _, row := range rows {
		if err := l.placeRequest(row); err != nil {
			return err
		}
	}
	return nil
}

// placeRequest puts a request after those that were made before.
func (l *Layout) placeRequest(o outcome) error {
	job := schema.JobOfRequest(o.RequestID)
	id, source := o.RequestID[strings.LastIndexByte(o.RequestID, '.')+1:], pipeline.SourcePrefix+schedule
	if job == "" {
		id, source = schema.DeriveID(refillEvents, "requested", o.RequestID), l.Commands
	}
	event := schema.Event{ID: id, Source: source, Payload: schema.FetchRequested{Quote: schema.Quote{Provider: o.Provider, Symbol: o.Symbol, RequestID: o.RequestID},
		JobID: job, RequestedAt: o.AskedAt, Deadline: *o.Deadline}}
	if l.waiting[keyOf(id)] {
		return nil
	}
	slot, err := l.literal(event, o.AskedAt, refill.Linked)
	if err != nil {
		return err
	}
	l.floats = append(l.floats, float{pipeline.TopicPartition{Topic: schema.FetchRequests, Partition: l.partitionOf(event.Payload)}, o.AskedAt.UnixMicro() - early, slot, false})
	return nil
}

// early makes a time a number that orders, and is before every offset.
const early = int64(1) << 62

// placeForgotten gives an event for each failure that a job has counted and that belongs to a
// request which retention has deleted. A read model that is built again counts it, and deletes the
// request again, since it is from before what is kept.
func (l *Layout) placeForgotten(ctx context.Context) error {
	kept, known, err := l.keptFrom(ctx)
	if err != nil || !known {
		return err
	}
	var rows []struct {
		JobID     string          `db:"job_id"`
		Provider  schema.Provider `db:"provider"`
		Symbols   string          `db:"symbols"`
		Failures  int             `db:"failures"`
		Symbol    *schema.Symbol  `db:"symbol"`
		Code      *schema.Code    `db:"code"`
		Reason    *string         `db:"reason"`
		FailedAt  *schema.Time    `db:"failed_at"`
		OutcomeID *int64          `db:"outcome_id"`
	}
	err = l.View.Select(ctx, &rows, `SELECT c.job_id, j.provider, j.symbols, c.failures, f.symbol, f.code, f.reason, f.failed_at, f.outcome_id
		FROM job_counts AS c JOIN polling_jobs AS j ON j.job_id = c.job_id LEFT JOIN job_failures AS f ON f.job_id = c.job_id ORDER BY c.job_id`)
	if err != nil {
		return fmt.Errorf("reading the failures of jobs: %w", err)
	}
	before := kept.Add(-forgottenBefore)
	for _, row := range rows {
		missing := row.Failures - l.failures[row.JobID]
		if missing <= 0 || row.OutcomeID == nil {
			continue
		}
		symbols, err := symbolsOf(row.Symbols)
		if err != nil {
			return err
		}
		failure := schema.QuoteFailed{Quote: schema.Quote{Provider: row.Provider, Symbol: *row.Symbol}, Code: *row.Code, Reason: *row.Reason, FailedAt: *row.FailedAt}
		if part, offset, ok := l.place(schema.QuoteOutcomes, *row.OutcomeID); ok && !l.at(schema.QuoteOutcomes, part).Has(offset) {
			slot, err := l.forgotten(failure, row.JobID, 0)
			if err != nil {
				return err
			}
			slot.Offset = offset
			l.at(schema.QuoteOutcomes, part).Put(slot)
			missing--
		}
		if failure.FailedAt.After(before) {
			failure.FailedAt = before
		}
		failure.Reason = "of a request that was deleted"
		l.missing = append(l.missing, missingFailures{failure, row.JobID, missing, symbols})
	}
	return nil
}

// missingFailures are failures of a job of which nothing is known but their number.
type missingFailures struct {
	failure schema.QuoteFailed
	job     string
	n       int
	symbols []schema.Symbol
}

// placeMissing puts the failures of which nothing else is known where nothing else is: each was on
// the partition of one of the symbols of its job.
func (l *Layout) placeMissing() error {
	for _, m := range l.missing {
		for n := range m.n {
			placed := false
			for i := 0; i < len(m.symbols) && !placed; i++ {
				m.failure.Symbol = m.symbols[(n+i)%len(m.symbols)]
				slot, err := l.forgotten(m.failure, m.job, n+1)
				if err != nil {
					return err
				}
				_, placed = l.at(schema.QuoteOutcomes, l.partitionOf(m.failure)).Float(0, slot)
			}
			if !placed {
				l.Unplaced++
			}
		}
	}
	return nil
}

const (
	// forgottenBefore is how long before what is kept the deleted requests are said to have been
	// made, or to have failed.
	forgottenBefore = time.Hour
	// longestRequest is more than the time from a request to its answer may be.
	longestRequest = time.Hour
)

func (l *Layout) forgotten(failure schema.QuoteFailed, job string, n int) (refill.Slot, error) {
	id := schema.DeriveID(refillEvents, "forgotten", job, strconv.Itoa(n))
	failure.RequestID = schema.JobRequestID(job, id)
	return l.literal(schema.Event{ID: id, Source: refillEvents, Payload: failure}, failure.FailedAt, refill.Unlinked)
}

// countFailure counts an outcome that is given again, if it is a failure of a job.
func (l *Layout) countFailure(p schema.Payload) {
	switch p := p.(type) {
	case schema.QuoteFailed:
		l.failures[schema.JobOfRequest(p.RequestID)]++
	case schema.QuoteRejected:
		l.failures[schema.JobOfRequest(p.RequestID)]++
	}
}
