package httpapi

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// pollAccepted answers POST poll.
type pollAccepted struct {
	JobID  string     `json:"job_id"`
	Status string     `json:"status"`
	Config pollConfig `json:"config"`
}

// pollConfig is the job as it will run: symbols in upper case and each once,
// the provider by its real name.
type pollConfig struct {
	Symbols  []schema.Symbol `json:"symbols"`
	Interval int             `json:"interval"`
	Provider schema.Provider `json:"provider"`
}

// postPoll starts a polling job. A provider without a key is accepted: its job
// reports the error, and works as soon as there is one.
func (a *API) postPoll(w http.ResponseWriter, r *http.Request) error {
	body, err := a.readPollBody(r)
	if err != nil {
		return err
	}
	provider, err := a.config.provider(body.provider)
	if err != nil {
		return err
	}
	job := schema.PollingJobCreated{
		JobID:     newJobID(),
		Symbols:   body.symbols,
		Interval:  body.interval,
		Provider:  provider,
		CreatedAt: schema.NewTime(a.config.Now()),
	}
	ctx, cancel := querying(r)
	defer cancel()
	token, err := a.ports.Commands.Publish(ctx, job)
	if err != nil {
		return fmt.Errorf("creating polling job %s: %w", job.JobID, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted,
		pollAccepted{job.JobID, "accepted", pollConfig{job.Symbols, job.Interval, job.Provider}})
	return nil
}

// newJobID has the form that the original gave: poll_ and eight characters, here
// 40 random bits in base 32.
func newJobID() string { return "poll_" + strings.ToLower(rand.Text()[:8]) }
