package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

// pollAccepted answers POST poll.
type pollAccepted struct {
	JobID  string     `json:"job_id"`
	Status string     `json:"status"`
	Config pollConfig `json:"config"`
}

// pollConfig is the job as it will run: symbols as the provider knows them and each once,
// the provider by its real name.
type pollConfig struct {
	Symbols  []schema.Symbol `json:"symbols"`
	Interval int             `json:"interval"`
	Provider schema.Provider `json:"provider"`
}

// postPoll starts a polling job. A provider without a key is accepted: its job
// reports the error, and works as soon as there is one.
func (a *API) postPoll(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	body, err := a.readPollBody(r)
	if err != nil {
		return err
	}
	provider, err := a.config.provider(body.provider)
	if err != nil {
		return err
	}
	job := schema.PollingJobCreated{
		JobID:     newJobID(key),
		Symbols:   a.config.symbols(provider, body.symbols),
		Interval:  body.interval,
		Provider:  provider,
		CreatedAt: schema.NewTime(a.config.Now()),
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	if key == "" {
		err = a.createJob(ctx, w, job, body.provider)
	} else {
		err = a.createJobOnce(ctx, w, job, body.provider, key)
	}
	if err != nil {
		return err
	}
	a.writeJSON(w, r, http.StatusAccepted,
		pollAccepted{job.JobID, "accepted", pollConfig{job.Symbols, job.Interval, asNamed(job.Provider, body.provider)}})
	return nil
}

// createJob writes a job, for which the client named a provider or none.
func (a *API) createJob(ctx context.Context, w http.ResponseWriter, job schema.PollingJobCreated, named string) error {
	if err := a.checkInvention(ctx, codeBadRequest, named, job.Symbols...); err != nil {
		return err
	}
	return a.jobs.publish(ctx, job.JobID, func() error {
		token, err := a.ports.Commands.Publish(ctx, job)
		if err != nil {
			return fmt.Errorf("creating polling job %s: %w", job.JobID, err)
		}
		w.Header().Set("X-Log-Position", token)
		return nil
	})
}

// createJobOnce creates a job whose id follows from a key, unless it is known. Of
// several requests that come at once each may write it, as one and the same
// event: the first on the log is the job, which all of them then look at.
func (a *API) createJobOnce(ctx context.Context, w http.ResponseWriter, job schema.PollingJobCreated, named, key string) error {
	known, err := a.ports.Jobs.Get(ctx, job.JobID)
	if errors.Is(err, jobs.ErrForgotten) {
		return newError(codeConflict, "The job of this Idempotency-Key, %s, was stopped, and is older than JOBS_RETENTION: use another key", job.JobID)
	}
	if errors.Is(err, projections.ErrNotFound) {
		if err := a.createJob(ctx, w, job, named); err != nil {
			return err
		}
		if known, err = a.findJob(ctx, job.JobID); err != nil {
			return nil // it is on the log, whatever keeps us from looking at it
		}
	}
	if err != nil {
		return fmt.Errorf("reading polling job %s: %w", job.JobID, err)
	}
	if !slices.Equal(known.Symbols, job.Symbols) || known.Interval != job.Interval || known.Provider != job.Provider {
		w.Header().Del("X-Log-Position")
		return faults{inHeader("idempotency-key", key).wrong("the key was used with another body")}
	}
	return nil
}

// maxKey is the longest Idempotency-Key, in characters.
const maxKey = 255

// idempotencyKey returns the key of a request; empty where it has none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := strings.Join(values, ", ") // two of them are none: the space is not allowed
	at := inHeader("idempotency-key", abbreviate(key))
	switch {
	case key == "":
		return "", faults{at.shortString(1)}
	case len(key) > maxKey:
		return "", faults{at.longString(maxKey)}
	case strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", faults{at.mismatch("^[!-~]+$")}
	}
	return key, nil
}

// newJobID has the form that the original gave: poll_ and eight characters, here
// 40 bits in base 32. They are random, or follow from an Idempotency-Key. Two
// keys that lead to one id are told apart by their bodies.
func newJobID(key string) string {
	text := rand.Text()
	if key != "" {
		sum := sha256.Sum256([]byte("Idempotency-Key " + key))
		text = base32.StdEncoding.EncodeToString(sum[:])
	}
	return "poll_" + strings.ToLower(text[:8])
}
