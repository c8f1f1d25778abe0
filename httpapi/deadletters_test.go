package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
)

// deadLetters has one dead letter of the stage normalize, number 17, which a retry
// makes of what outcome says; stage typo never ran.
type deadLetters struct {
	outcome   httpapi.DeadLetterRetry
	err       error
	retried   []httpapi.WhichDeadLetters
	discarded []httpapi.WhichDeadLetters
}

func (d *deadLetters) check(stage string) error {
	if stage == "typo" {
		return projections.ErrNotFound
	}
	return d.err
}

func (d *deadLetters) List(_ context.Context, stage string, limit int) ([]httpapi.DeadLetterSummary, error) {
	if stage != "normalize" && stage != "" || limit < 1 {
		return nil, d.check(stage)
	}
	return []httpapi.DeadLetterSummary{{ID: 17, Stage: "normalize", Topic: "stored-quotes", TopicID: "id", Partition: 3, Offset: 9, Bytes: 2,
		Reason: "panic: oh\nstack", CreatedAt: eventTime, Retrying: true}}, d.err
}

func (d *deadLetters) Get(_ context.Context, id int64) (httpapi.DeadLetter, error) {
	if id != 17 {
		return httpapi.DeadLetter{}, fmt.Errorf("reading: %w", projections.ErrNotFound)
	}
	return httpapi.DeadLetter{ID: 17, Stage: "normalize", Topic: "stored-quotes", TopicID: "id", Partition: 3, Offset: 9, Reason: "panic: oh\nstack",
		CreatedAt: eventTime, Headers: []httpapi.DeadLetterHeader{{Key: "ce_id", Value: []byte("12")}}, Value: []byte("\xff\x00")}, d.err
}

func (d *deadLetters) Count(_ context.Context, which httpapi.WhichDeadLetters) ([]httpapi.StageDeadLetters, error) {
	if which.Stage == "fetch" {
		return nil, nil
	}
	return []httpapi.StageDeadLetters{{Stage: "normalize", Letters: 3, Retrying: 1}, {Stage: "raw-store", Letters: 2}}, d.check(which.Stage)
}

func (d *deadLetters) Retry(_ context.Context, which httpapi.WhichDeadLetters) (httpapi.DeadLetterRetry, error) {
	d.retried = append(d.retried, which)
	if which.ID > 17 {
		return httpapi.DeadLetterRetry{}, projections.ErrNotFound
	}
	order := d.outcome
	order.ID, order.OrderedAt = "retry_abc12345", eventTime
	return order, d.err
}

func (d *deadLetters) ReadRetry(_ context.Context, id string) (httpapi.DeadLetterRetry, error) {
	if id != "retry_abc12345" {
		return httpapi.DeadLetterRetry{}, projections.ErrNotFound
	}
	order := d.outcome
	order.ID, order.OrderedAt = id, eventTime
	return order, d.err
}

func (d *deadLetters) Discard(_ context.Context, which httpapi.WhichDeadLetters) (int64, error) {
	d.discarded = append(d.discarded, which)
	if which.ID > 17 {
		return 0, projections.ErrNotFound
	}
	return 1, d.err
}

func TestDeadLettersAreShown(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	expect(t, get(t, api, "/api/v1/dead-letters?stage=normalize&limit=5"), 200, `{"items":[{"id":17,"stage":"normalize","topic":"stored-quotes",`+
		`"topic_id":"id","partition":3,"offset":9,"bytes":2,"reason":"panic: oh\nstack","created_at":"2025-06-15T14:30:00.000000Z","retrying":true}]}`)
	expect(t, get(t, api, "/api/v1/dead-letters?stage=fetch"), 200, `{"items":[]}`)
	expect(t, get(t, api, "/api/v1/dead-letters?stage=typo"), 404, `{"detail":"There is no stage \"typo\""}`)
	assert.Equal(t, 404, get(t, api, "/api/v1/dead-letters?stage=%00").Code)
	assert.Equal(t, 422, get(t, api, "/api/v1/dead-letters?limit=0").Code)
	expect(t, get(t, api, "/api/v1/dead-letters/17"), 200, `{"id":17,"stage":"normalize","topic":"stored-quotes","topic_id":"id","partition":3,"offset":9,`+
		`"reason":"panic: oh\nstack","created_at":"2025-06-15T14:30:00.000000Z","retrying":false,"discarded_at":null,"key":null,`+
		`"headers":[{"key":"ce_id","value":"MTI="}],"value":"/wA="}`)
	expect(t, get(t, api, "/api/v1/dead-letters/18"), 404, `{"detail":"There is no dead letter \"18\""}`)
	for _, wrong := range []string{"x", "0", "-1", "%00", "9223372036854775808"} {
		assert.Equal(t, 404, get(t, api, "/api/v1/dead-letters/"+wrong).Code, wrong)
	}
}

// Only what was applied is answered 200.
func TestADeadLetterIsRetried(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		outcome httpapi.DeadLetterRetry
		err     error
		path    string
		status  int
		want    string
	}{
		"applied":   {httpapi.DeadLetterRetry{Letters: 1, Applied: 1}, nil, "17", 200, `"applied":1,"failed":0,"refused":0,"pending":0,"withdrawn":0,"reason":""`},
		"pending":   {httpapi.DeadLetterRetry{Letters: 1, Pending: 1}, nil, "17", 202, `"pending":1`},
		"failed":    {httpapi.DeadLetterRetry{Letters: 1, Failed: 1, Reason: "still no"}, nil, "17", 409, `{"detail":"Dead letter 17 was not applied: still no"}`},
		"refused":   {httpapi.DeadLetterRetry{Letters: 1, Refused: 1, Reason: "build again"}, nil, "17", 409, `{"detail":"Dead letter 17 was not applied: build again"}`},
		"withdrawn": {httpapi.DeadLetterRetry{Letters: 1, Withdrawn: 1}, nil, "17", 409, `discarded meanwhile`},
		"under way": {httpapi.DeadLetterRetry{}, httpapi.ErrRetrying, "17", 409, `{"detail":"A retry of dead letter 17 is under way already"}`},
		"unknown":   {httpapi.DeadLetterRetry{}, nil, "18", 404, `{"detail":"There is no dead letter \"18\""}`},
		"no number": {httpapi.DeadLetterRetry{}, nil, "retry", 404, `{"detail":"There is no dead letter \"retry\""}`},
		"away":      {httpapi.DeadLetterRetry{}, httpapi.ErrUnavailable, "17", 503, `Service temporarily unavailable`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, func(s *setup) { s.DeadLetters = &deadLetters{outcome: test.outcome, err: test.err} })
			w := serve(t, api, request(http.MethodPost, "/api/v1/dead-letters/"+test.path+"/retry", ""))
			assert.Equal(t, test.status, w.Code)
			assert.Contains(t, w.Body.String(), test.want)
		})
	}
}

// A command to many dead letters answers with their number, until it is confirmed.
func TestCommandsToManyDeadLetters(t *testing.T) {
	t.Parallel()
	all := &deadLetters{outcome: httpapi.DeadLetterRetry{Letters: 5, Applied: 3, Pending: 2}}
	api := newAPI(t, func(s *setup) { s.DeadLetters = all })
	const count = `{"letters":5,"stages":[{"stage":"normalize","letters":3,"retrying":1},{"stage":"raw-store","letters":2,"retrying":0}]}`
	for _, command := range []struct{ method, path string }{{http.MethodPost, "/api/v1/dead-letter-retries"}, {http.MethodDelete, "/api/v1/dead-letters"}} {
		do := func(query string) (int, string) {
			w := serve(t, api, request(command.method, command.path+query, ""))
			return w.Code, w.Body.String()
		}
		for _, query := range []string{"", "?confirm=no", "?stage="} {
			status, body := do(query)
			assert.Equal(t, 200, status)
			assert.JSONEq(t, count, body)
		}
		_, body := do("?stage=fetch")
		assert.JSONEq(t, `{"letters":0,"stages":[]}`, body)
		for _, query := range []string{"?stage=typo", "?stage=typo&confirm=yes"} {
			status, _ := do(query)
			assert.Equal(t, 404, status)
		}
		status, _ := do("?confirm=perhaps")
		assert.Equal(t, 422, status)
	}
	assert.Empty(t, all.retried)
	assert.Empty(t, all.discarded)

	w := serve(t, api, request(http.MethodPost, "/api/v1/dead-letter-retries?stage=normalize&confirm=yes", ""))
	assert.Equal(t, 202, w.Code)
	assert.Equal(t, []httpapi.WhichDeadLetters{{Stage: "normalize"}}, all.retried)
	assert.Equal(t, 200, get(t, api, "/api/v1/dead-letter-retries/retry_abc12345").Code)
	for _, unknown := range []string{"retry_b", "%00"} {
		assert.Equal(t, 404, get(t, api, "/api/v1/dead-letter-retries/"+unknown).Code)
	}
	all.outcome = httpapi.DeadLetterRetry{Letters: 5, Applied: 4, Failed: 1, Reason: "no"}
	assert.Equal(t, 200, serve(t, api, request(http.MethodPost, "/api/v1/dead-letter-retries?confirm=yes", "")).Code)
	expect(t, serve(t, api, request(http.MethodDelete, "/api/v1/dead-letters?confirm=yes", "")), 200, `{"discarded":1}`)
	assert.Equal(t, []httpapi.WhichDeadLetters{{}}, all.discarded)
	expect(t, serve(t, api, request(http.MethodDelete, "/api/v1/dead-letters/17", "")), 200, `{"discarded":1}`)
	expect(t, serve(t, api, request(http.MethodDelete, "/api/v1/dead-letters/18", "")), 404, `{"detail":"There is no dead letter \"18\""}`)
}
