package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// defaultWait is how long a read waits for the command that it is to follow, unless the
// request says it.
const defaultWait = 2 * time.Second

// positionPattern is what the parameter after may be for a topic, and waitPattern what wait
// may be.
func positionPattern(topic schema.Topic) string {
	return "^" + string(topic) + `:(0|[1-9][0-9]{0,8}):[1-9][0-9]{0,17}$`
}

const waitPattern = `^([1-9][0-9]{0,3}ms|[1-9]s|10s)$`

var (
	isPosition = map[schema.Topic]*regexp.Regexp{
		schema.PollingJobs: regexp.MustCompile(positionPattern(schema.PollingJobs)),
		schema.PriceEvents: regexp.MustCompile(positionPattern(schema.PriceEvents)),
	}
	isWait = regexp.MustCompile(waitPattern)
)

// logPosition is where a command or a correction is in the log, as X-Log-Position said.
type logPosition struct {
	text      string // empty for none
	partition int32
	number    int64 // in the chain of the partition
}

func (q *query) after(topic schema.Topic) (p logPosition) {
	text, given := q.get("after")
	if !given {
		return logPosition{}
	}
	if !isPosition[topic].MatchString(text) {
		q.faults = append(q.faults, inQuery("after", abbreviate(text)).mismatch(positionPattern(topic)))
		return logPosition{}
	}
	parts := strings.Split(text, ":")
	partition, _ := strconv.ParseInt(parts[1], 10, 32) // so many digits it has
	number, _ := strconv.ParseInt(parts[2], 10, 64)
	return logPosition{text, int32(partition), number}
}

func (q *query) wait() time.Duration {
	text, given := q.get("wait")
	if !given {
		return defaultWait
	}
	if !isWait.MatchString(text) {
		q.faults = append(q.faults, inQuery("wait", abbreviate(text)).mismatch(waitPattern))
	}
	d, _ := time.ParseDuration(text) // it fits the pattern
	return d
}

// followed is what a read may have to wait for.
type followed struct {
	topic  schema.Topic
	stages []string // names of stages, or of projections
	// caughtUp returns once all stages have applied what was in the topic before the call.
	caughtUp func(context.Context) error
}

// ofPrices is a handler of what projections made of prices: with after, and with Age.
func (a *API) ofPrices(serve func(http.ResponseWriter, *http.Request) error, names ...string) func(http.ResponseWriter, *http.Request) error {
	return a.withAfter(a.foldedBy(names...), a.withAge(serve, names...))
}

// foldedBy is what a read of projections of prices may have to wait for.
func (a *API) foldedBy(names ...string) followed {
	return followed{schema.PriceEvents, names, func(ctx context.Context) error {
		for _, name := range names {
			if err := a.ports.CaughtUp(ctx, name, schema.PriceEvents); err != nil {
				return err
			}
		}
		return nil
	}}
}

// withAfter is a handler that answers once the stages have applied the command that the
// client names, if it names one: what it wrote, it reads.
func (a *API) withAfter(f followed, serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !mayFollow(r.URL.RawQuery) {
			return serve(w, r)
		}
		q := query{values: r.URL.Query()}
		position, patience := q.after(f.topic), q.wait()
		if err := q.faults.orNil(); err != nil {
			return err
		}
		if position.text == "" {
			return serve(w, r)
		}
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		err := a.ports.WaitWritten(ctx, f.topic, position.partition, position.number)
		if err == nil {
			// What was written before, too. It is a little more than was asked for, and holds
			// whatever name the chain has by now.
			err = f.caughtUp(ctx)
		}
		switch {
		case err == nil:
			return serve(w, r)
		case r.Context().Err() == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return &apiError{codeNotReached, fmt.Sprintf("%s was not reached within %v: %s", position.text, patience, a.placeOf(r, f, position.partition)), err}
		}
		return fmt.Errorf("waiting for %s: %w", position.text, err)
	}
}

// mayFollow reports whether a query may have the parameters after and wait: one that has
// not, which is most, is not read twice.
func mayFollow(query string) bool {
	return strings.Contains(query, "after") || strings.Contains(query, "wait") || strings.Contains(query, "%")
}

// placeOf says how far the stages are: the first that is behind, or else the first.
func (a *API) placeOf(r *http.Request, f followed, partition int32) string {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	all, err := a.ports.Pipeline.Stages(ctx)
	if err != nil {
		return "how far the stage is cannot be said now"
	}
	place := ""
	for _, s := range all {
		name, _, _ := strings.Cut(s.Stage, ".")
		if !slices.Contains(f.stages, name) || s.Topic != f.topic || s.Partition != partition {
			continue
		}
		if place == "" || s.Position < s.End {
			place = fmt.Sprintf("%s is at offset %d of %d of %s/%d", s.Stage, s.Position, s.End, s.Topic, s.Partition)
		}
		if s.Position < s.End {
			break
		}
	}
	if place == "" {
		return fmt.Sprintf("%s has read nothing of partition %d", f.stages[0], partition)
	}
	return place
}
