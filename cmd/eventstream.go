package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// eventStream is a stream of server-sent events, over one connection after the other.
type eventStream struct {
	url       string
	authorize func(*http.Request) (*http.Transport, error)
	last      string        // the id of the last event
	retry     time.Duration // when to connect again
	connected bool          // it was, at some time
	lost      bool          // since then
}

// read reads one connection to its end, which is an error in any case.
func (s *eventStream) read(ctx context.Context, tell func(string), take func(pushEvent) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return &stopError{fmt.Errorf("%w: %w", errUsage, err)}
	}
	request.Header.Set("Accept", "text/event-stream")
	if s.last != "" {
		request.Header.Set("Last-Event-ID", s.last)
	}
	transport, err := s.authorize(request)
	if err != nil {
		return &stopError{err}
	}
	transport.DisableKeepAlives = true
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("asking the service: %w%s", because(ctx, err), startHint(err))
	}
	defer func() { _ = response.Body.Close() }() // it was read
	if response.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("reading the answer of %s: %w", s.url, err)
		}
		return s.refused(response, answer)
	}
	if s.lost {
		tell("connected again")
	}
	s.connected, s.lost = true, true
	s.retry = firstRetry
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEvent)
	var e pushEvent
	for lines.Scan() {
		watchdog.Reset(silence)
		if lines.Text() != "" {
			s.field(&e, lines.Text())
			continue
		}
		if e.ID != "" {
			s.last = e.ID
		}
		if e.Event != "" && e.Data != nil {
			if err := take(e); err != nil {
				return &stopError{err}
			}
		}
		e = pushEvent{}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the connection was lost: %w", because(ctx, err))
	}
	return errors.New("the service ended the connection")
}

// field reads a line of an event.
func (s *eventStream) field(e *pushEvent, line string) {
	name, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch name {
	case "event":
		e.Event = value
	case "id":
		e.ID = value
	case "data":
		e.Data = json.RawMessage(value)
	case "retry":
		if milliseconds, err := strconv.Atoi(value); err == nil && milliseconds >= 0 {
			s.retry = min(time.Duration(milliseconds)*time.Millisecond, lastRetry)
		}
	}
}

// because is the reason why ctx ended, or else err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	return err
}
