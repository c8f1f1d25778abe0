package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// defaultWait is how long a read waits for the command that it is to follow, unless the
// request says it.
const defaultWait = 2 * time.Second

// positionPattern and waitPattern are what the parameters after and wait may be.
const (
	positionPattern = `^polling-jobs:(0|[1-9][0-9]{0,8}):[1-9][0-9]{0,17}$`
	waitPattern     = `^([1-9][0-9]{0,3}ms|[1-9]s|10s)$`
)

var (
	isPosition = regexp.MustCompile(positionPattern)
	isWait     = regexp.MustCompile(waitPattern)
)

// commandPosition is where a command is in the log, as X-Log-Position said.
type commandPosition struct {
	text      string // empty for none
	partition int32
	number    int64 // in the chain of the partition
}

func (q *query) after() (p commandPosition) {
	text, given := q.get("after")
	if !given {
		return commandPosition{}
	}
	if !isPosition.MatchString(text) {
		q.faults = append(q.faults, inQuery("after", abbreviate(text)).mismatch(positionPattern))
		return commandPosition{}
	}
	parts := strings.Split(text, ":")
	partition, _ := strconv.ParseInt(parts[1], 10, 32) // so many digits it has
	number, _ := strconv.ParseInt(parts[2], 10, 64)
	return commandPosition{text, int32(partition), number}
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

// withAfter is a handler that answers once a stage has applied the command that the client
// names, if it names one: what it wrote, it reads.
func (a *API) withAfter(stage string, caughtUp func(context.Context) error, serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		q := query{values: r.URL.Query()}
		position, patience := q.after(), q.wait()
		if err := q.faults.orNil(); err != nil {
			return err
		}
		if position.text == "" {
			return serve(w, r)
		}
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		err := a.ports.WaitWritten(ctx, schema.PollingJobs, position.partition, position.number)
		if err == nil {
			// What was written before, too. It is a little more than was asked for, and holds
			// whatever name the chain has by now.
			err = caughtUp(ctx)
		}
		switch {
		case err == nil:
			return serve(w, r)
		case r.Context().Err() == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return &apiError{codeNotReached, fmt.Sprintf("%s was not reached within %v: %s", position.text, patience, a.placeOf(r, stage, position.partition)), err}
		}
		return fmt.Errorf("waiting for %s: %w", position.text, err)
	}
}

// placeOf says how far a stage is.
func (a *API) placeOf(r *http.Request, stage string, partition int32) string {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	stages, err := a.ports.Pipeline.Stages(ctx)
	if err != nil {
		return "how far the stage is cannot be said now"
	}
	for _, s := range stages {
		if name, _, _ := strings.Cut(s.Stage, "."); name == stage && s.Topic == schema.PollingJobs && s.Partition == partition {
			return fmt.Sprintf("%s is at offset %d of %d of %s/%d", s.Stage, s.Position, s.End, s.Topic, s.Partition)
		}
	}
	return fmt.Sprintf("%s has read nothing of partition %d", stage, partition)
}
