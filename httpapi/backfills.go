package httpapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/schema"
)

// Backfill is a backfill, as GET backfills shows it.
type Backfill struct {
	BackfillID string          `json:"backfill_id"`
	Status     string          `json:"status"` // active, failing, completed, failed or stopped
	Provider   schema.Provider `json:"provider"`
	Symbol     schema.Symbol   `json:"symbol"`
	From       schema.Time     `json:"from"`
	To         schema.Time     `json:"to"`
	StartedAt  schema.Time     `json:"started_at"`
	// EndedAt is nil until the status is completed, failed or stopped.
	EndedAt *schema.Time `json:"ended_at"`
	// OwnerAlive says that a worker works on it and renewed its claim of late.
	OwnerAlive bool  `json:"owner_alive"`
	Calls      int64 `json:"calls"`
	// Prices were appended to the log, Repeated were stored before.
	Prices    int64        `json:"prices"`
	Repeated  int64        `json:"repeated"`
	ReachedAt *schema.Time `json:"reached_at"`
	// Applied says that it is completed, and every read model that serves has its prices.
	Applied   bool           `json:"applied"`
	LastError *BackfillError `json:"last_error"`
}

// BackfillError says why a call of a backfill failed.
type BackfillError struct {
	Reason    string      `json:"reason"`
	Timestamp schema.Time `json:"timestamp"`
}

// Backfills finds backfills.
type Backfills interface {
	// Get returns an error that wraps projections.ErrNotFound where the backfill is not
	// known.
	Get(ctx context.Context, backfillID string) (Backfill, error)
	// WaitCaughtUp returns once every backfill that was started before the call is known, or
	// with an error.
	WaitCaughtUp(ctx context.Context) error
	// List returns at most limit backfills, the last started first.
	List(ctx context.Context, limit int) ([]Backfill, error)
	// Covering returns the id of one that has not ended, and whose span has all of another
	// one; empty where there is none.
	Covering(ctx context.Context, provider schema.Provider, symbol schema.Symbol, from, to schema.Time) (string, error)
	// Open counts those that have not ended, and returns those of ids that are known.
	Open(ctx context.Context, ids []string) (open int, known []string, err error)
}

// backfillAccepted answers POST backfills.
type backfillAccepted struct {
	BackfillID string         `json:"backfill_id"`
	Status     string         `json:"status"`
	Config     backfillConfig `json:"config"`
}

// backfillConfig is the backfill as it will run: the symbol as the provider knows it, the
// provider by its real name.
type backfillConfig struct {
	Provider schema.Provider `json:"provider"`
	Symbol   schema.Symbol   `json:"symbol"`
	From     schema.Time     `json:"from"`
	To       schema.Time     `json:"to"`
}

// postBackfill asks for a provider's prices of the past.
func (a *API) postBackfill(w http.ResponseWriter, r *http.Request) error {
	now := schema.NewTime(a.config.Now())
	backfill, err := readBackfill(r, now)
	if err != nil {
		return err
	}
	provider, err := a.config.providerThatCan("give its history", string(backfill.Provider), a.config.Historians)
	if err != nil {
		return err
	}
	backfill.Provider, backfill.Symbol = provider, a.config.symbol(provider, backfill.Symbol)
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	switch other, err := a.ports.Backfills.Covering(ctx, backfill.Provider, backfill.Symbol, backfill.From, backfill.To); {
	case err != nil:
		return fmt.Errorf("looking for backfills of the same prices: %w", err)
	case other != "":
		return newError(codeConflict, "Backfill %s is under way, and fetches all of that span: follow it, or stop it first", other)
	}
	err = a.backfills.publish(ctx, backfill.BackfillID, func() error {
		token, err := a.ports.Commands.Publish(ctx, backfill)
		if err != nil {
			return fmt.Errorf("starting backfill %s: %w", backfill.BackfillID, err)
		}
		w.Header().Set("X-Log-Position", token)
		return nil
	})
	if err != nil {
		return err
	}
	a.writeJSON(w, r, http.StatusAccepted, backfillAccepted{backfill.BackfillID, "accepted",
		backfillConfig{backfill.Provider, backfill.Symbol, backfill.From, backfill.To}})
	return nil
}

// readBackfill reads a body. Its provider is as it was sent.
func readBackfill(r *http.Request, now schema.Time) (schema.BackfillStarted, error) {
	data, err := readBody(r)
	if err != nil {
		return schema.BackfillStarted{}, err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return schema.BackfillStarted{}, err
	}
	b := schema.BackfillStarted{BackfillID: newBackfillID(), Provider: schema.Provider(d.provider()), Symbol: d.symbol(),
		From: d.time("from"), To: d.time("to"), StartedAt: now}
	if len(d.faults) == 0 {
		switch to := d.place(d.fields["to"], "to"); {
		case b.From.Validate() != nil:
			d.add(d.place(d.fields["from"], "from").notTime("before the year 1900"))
		case b.From.After(b.To):
			d.add(to.wrong("to is before from"))
		case b.To.After(now):
			d.add(to.wrong("to is in the future"))
		}
	}
	return b, d.faults.orNil()
}

// backfillStage is the stage whose table has the backfills.
const backfillStage = "backfill"

// newBackfillID is backfill_ and 40 random bits in base 32.
func newBackfillID() string { return "backfill_" + strings.ToLower(rand.Text()[:8]) }

func (a *API) getBackfills(w http.ResponseWriter, r *http.Request) error {
	return answerLast(a, w, r, "backfills", defaultLimit, maxLimit, a.ports.Backfills.List)
}

func (a *API) getBackfill(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	backfill, err := a.findBackfill(ctx, mux.Vars(r)["backfill_id"])
	if err != nil {
		return err
	}
	a.writeState(w, r, backfill)
	return nil
}

// backfillCommanded answers commands to a backfill.
type backfillCommanded struct {
	BackfillID string `json:"backfill_id"`
	Status     string `json:"status"`
}

// deleteBackfill stops a backfill. Its row stays, and says so.
func (a *API) deleteBackfill(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	backfill, err := a.findBackfill(ctx, mux.Vars(r)["backfill_id"])
	if err != nil {
		return err
	}
	if backfill.EndedAt != nil {
		return newError(codeConflict, "Backfill %s is %s", backfill.BackfillID, backfill.Status)
	}
	token, err := a.ports.Commands.Publish(ctx, schema.BackfillStopped{BackfillID: backfill.BackfillID, StoppedAt: schema.NewTime(a.config.Now())})
	if err != nil {
		return fmt.Errorf("stopping backfill %s: %w", backfill.BackfillID, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted, backfillCommanded{backfill.BackfillID, "accepted"})
	return nil
}

func (a *API) findBackfill(ctx context.Context, id string) (Backfill, error) {
	return find(ctx, a.ports.Backfills, "backfill", id, noSuch("backfill"))
}
