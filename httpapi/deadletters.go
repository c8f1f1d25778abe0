package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// DeadLetter is a record that a stage skipped, with all its bytes, which are
// base64 in JSON and null where the record has none.
type DeadLetter struct {
	ID        int64       `json:"id"`
	Stage     string      `json:"stage"`
	Topic     string      `json:"topic"`
	TopicID   string      `json:"topic_id"`
	Partition int32       `json:"partition"`
	Offset    int64       `json:"offset"`
	Reason    string      `json:"reason"`
	CreatedAt schema.Time `json:"created_at"`
	// Retrying says that a retry was ordered and is not carried out yet.
	Retrying bool `json:"retrying"`
	// DiscardedAt is when it was given up; nil where it was not.
	DiscardedAt *schema.Time       `json:"discarded_at"`
	Key         []byte             `json:"key"`
	Headers     []DeadLetterHeader `json:"headers"`
	Value       []byte             `json:"value"`
}

// DeadLetterHeader is a header of its record.
type DeadLetterHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// DeadLetterSummary is a dead letter without the record's bytes.
type DeadLetterSummary struct {
	ID        int64  `json:"id"`
	Stage     string `json:"stage"`
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	// Bytes is the size of the record's value.
	Bytes     int64       `json:"bytes"`
	Reason    string      `json:"reason"`
	CreatedAt schema.Time `json:"created_at"`
	Retrying  bool        `json:"retrying"`
}

// WhichDeadLetters selects one dead letter by its ID or, where that is 0, those of a
// stage, or of all stages where Stage is "", that are not discarded.
type WhichDeadLetters struct {
	ID    int64
	Stage string
}

// StageDeadLetters counts the dead letters of a stage, and those of them that are
// being retried.
type StageDeadLetters struct {
	Stage    string `json:"stage"`
	Letters  int64  `json:"letters"`
	Retrying int64  `json:"retrying"`
}

// DeadLetterRetry is an order to retry dead letters, and the outcomes so far.
type DeadLetterRetry struct {
	ID string `json:"retry_id"`
	// Letters is how many were ordered: the sum of the five numbers below it.
	Letters int64 `json:"letters"`
	// Applied are no dead letters any more. Failed have a new reason. Refused are as
	// they were: their stage cannot take a record out of the order of the log.
	Applied int64 `json:"applied"`
	Failed  int64 `json:"failed"`
	Refused int64 `json:"refused"`
	// Pending wait for the process that runs their stage.
	Pending int64 `json:"pending"`
	// Withdrawn were discarded meanwhile, or their stage began again.
	Withdrawn int64 `json:"withdrawn"`
	// Reason is why the last one failed or was refused.
	Reason    string      `json:"reason"`
	OrderedAt schema.Time `json:"ordered_at"`
}

// ErrRetrying says that a dead letter is being retried already.
var ErrRetrying = errors.New("a retry is under way already")

// DeadLetters are the records that stages skipped. Errors wrap
// projections.ErrNotFound where there is no such dead letter, stage or retry.
type DeadLetters interface {
	// List returns at most limit dead letters, of a stage or, where it is "", of all,
	// the newest first, without those that were discarded.
	List(ctx context.Context, stage string, limit int) ([]DeadLetterSummary, error)
	// Get reads one with all its bytes, discarded or not.
	Get(ctx context.Context, id int64) (DeadLetter, error)
	// Count counts what Retry and Discard would be for, by stage.
	Count(ctx context.Context, which WhichDeadLetters) ([]StageDeadLetters, error)
	// Retry orders a retry, waits a moment for its outcome, and returns it as far as
	// it is known. ErrRetrying is wrapped where the one selected is being retried.
	Retry(ctx context.Context, which WhichDeadLetters) (DeadLetterRetry, error)
	// ReadRetry reads the outcome of an order so far.
	ReadRetry(ctx context.Context, id string) (DeadLetterRetry, error)
	// Discard gives dead letters up, and returns how many there were.
	Discard(ctx context.Context, which WhichDeadLetters) (int64, error)
}

// Bounds of the parameter limit of GET dead-letters.
const (
	defaultLetters = 100
	maxLetters     = 1000
)

func (a *API) getDeadLetters(w http.ResponseWriter, r *http.Request) error {
	stage, err := readStage(r)
	if err != nil {
		return err
	}
	return answerLast(a, w, r, "dead letters", defaultLetters, maxLetters, func(ctx context.Context, limit int) ([]DeadLetterSummary, error) {
		letters, err := a.ports.DeadLetters.List(ctx, stage, limit)
		return letters, orNoStage(err, stage)
	})
}

// readStage reads the parameter stage; "" where it is absent.
func readStage(r *http.Request) (string, error) {
	q := query{values: r.URL.Query()}
	stage, _ := q.get("stage")
	if !isText(stage) {
		return "", noSuchStage(stage)
	}
	return stage, nil
}

func orNoStage(err error, stage string) error {
	if errors.Is(err, projections.ErrNotFound) {
		return noSuchStage(stage)
	}
	return err
}

func noSuchStage(stage string) error {
	return newError(codeNotFound, "There is no stage %q", abbreviate(stage))
}

func (a *API) getDeadLetter(w http.ResponseWriter, r *http.Request) error {
	return a.withLetter(r, "reading", func(ctx context.Context, id int64) error {
		letter, err := a.ports.DeadLetters.Get(ctx, id)
		if err == nil {
			a.writeState(w, r, letter)
		}
		return err
	})
}

// retryDeadLetter answers 200 only where the record was applied.
func (a *API) retryDeadLetter(w http.ResponseWriter, r *http.Request) error {
	return a.withLetter(r, "retrying", func(ctx context.Context, id int64) error {
		order, err := a.ports.DeadLetters.Retry(ctx, WhichDeadLetters{ID: id})
		switch {
		case err != nil:
			return err
		case order.Failed+order.Refused > 0:
			return newError(codeConflict, "Dead letter %d was not applied: %s", id, order.Reason)
		case order.Withdrawn > 0:
			return newError(codeConflict, "Dead letter %d was discarded meanwhile, or its stage began again", id)
		}
		a.writeJSON(w, r, orderStatus(order), order)
		return nil
	})
}

// orderStatus is 202 while an order is not carried out.
func orderStatus(order DeadLetterRetry) int {
	if order.Pending > 0 {
		return http.StatusAccepted
	}
	return http.StatusOK
}

// discardedBody is what was given up.
type discardedBody struct {
	Discarded int64 `json:"discarded"`
}

func (a *API) discardDeadLetter(w http.ResponseWriter, r *http.Request) error {
	return a.withLetter(r, "discarding", func(ctx context.Context, id int64) error {
		n, err := a.ports.DeadLetters.Discard(ctx, WhichDeadLetters{ID: id})
		if err == nil {
			a.writeJSON(w, r, http.StatusOK, discardedBody{n})
		}
		return err
	})
}

// withLetter does something with the dead letter of the path.
func (a *API) withLetter(r *http.Request, doing string, do func(ctx context.Context, id int64) error) error {
	text := mux.Vars(r)["letter_id"]
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return newError(codeNotFound, "There is no dead letter %q", abbreviate(text))
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	err = do(ctx, id)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, projections.ErrNotFound):
		return newError(codeNotFound, "There is no dead letter \"%d\"", id)
	case errors.Is(err, ErrRetrying):
		return newError(codeConflict, "A retry of dead letter %d is under way already", id)
	}
	return fmt.Errorf("%s dead letter %d: %w", doing, id, err)
}

// countBody says what a command to many dead letters would be for.
type countBody struct {
	Letters int64              `json:"letters"`
	Stages  []StageDeadLetters `json:"stages"`
}

// retryDeadLetters only counts them unless the client confirms.
func (a *API) retryDeadLetters(w http.ResponseWriter, r *http.Request) error {
	return a.withLetters(w, r, "retrying", func(ctx context.Context, which WhichDeadLetters) error {
		order, err := a.ports.DeadLetters.Retry(ctx, which)
		if err == nil {
			a.writeJSON(w, r, orderStatus(order), order)
		}
		return err
	})
}

// discardDeadLetters only counts them unless the client confirms.
func (a *API) discardDeadLetters(w http.ResponseWriter, r *http.Request) error {
	return a.withLetters(w, r, "discarding", func(ctx context.Context, which WhichDeadLetters) error {
		n, err := a.ports.DeadLetters.Discard(ctx, which)
		if err == nil {
			a.writeJSON(w, r, http.StatusOK, discardedBody{n})
		}
		return err
	})
}

// withLetters does something with the dead letters of a stage, or of all, where the
// client confirms, and counts them where it does not.
func (a *API) withLetters(w http.ResponseWriter, r *http.Request, doing string, do func(ctx context.Context, which WhichDeadLetters) error) error {
	stage, err := readStage(r)
	if err != nil {
		return err
	}
	q := query{values: r.URL.Query()}
	confirmed := q.choice("confirm", "yes", "no")
	if err := q.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	which := WhichDeadLetters{Stage: stage}
	counts, err := a.ports.DeadLetters.Count(ctx, which)
	if err != nil {
		return orNoStage(fmt.Errorf("counting dead letters: %w", err), stage)
	}
	if confirmed {
		if err := do(ctx, which); err != nil {
			return fmt.Errorf("%s dead letters: %w", doing, err)
		}
		return nil
	}
	body := countBody{Stages: append([]StageDeadLetters{}, counts...)} // an empty list, not null
	for _, c := range counts {
		body.Letters += c.Letters
	}
	a.writeJSON(w, r, http.StatusOK, body)
	return nil
}

func (a *API) getLetterRetry(w http.ResponseWriter, r *http.Request) error {
	id := mux.Vars(r)["retry_id"]
	if !isText(id) {
		return noSuchRetry(id)
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	order, err := a.ports.DeadLetters.ReadRetry(ctx, id)
	switch {
	case errors.Is(err, projections.ErrNotFound):
		return noSuchRetry(id)
	case err != nil:
		return fmt.Errorf("reading retry %s: %w", id, err)
	}
	a.writeState(w, r, order)
	return nil
}

func noSuchRetry(id string) error {
	return newError(codeNotFound, "There is no retry %q", abbreviate(id))
}
