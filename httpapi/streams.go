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

// streamAccepted answers POST streams, and PATCH.
type streamAccepted struct {
	StreamID string       `json:"stream_id"`
	Status   string       `json:"status"`
	Config   streamConfig `json:"config"`
}

// streamConfig is the stream as it will run: symbols as the provider knows them and each
// once, the provider by its real name.
type streamConfig struct {
	Symbols  []schema.Symbol `json:"symbols"`
	Provider schema.Provider `json:"provider"`
}

// postStream subscribes to what a provider sends by itself.
func (a *API) postStream(w http.ResponseWriter, r *http.Request) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return err
	}
	symbols, name := d.symbols(schema.MaxStreamSymbols), d.provider()
	if err := d.faults.orNil(); err != nil {
		return err
	}
	provider, err := a.config.providerThatCan("stream", name, a.config.Streamers)
	if err != nil {
		return err
	}
	stream := schema.StreamStarted{StreamID: newStreamID(), Provider: provider, Symbols: a.config.symbols(provider, symbols),
		StartedAt: schema.NewTime(a.config.Now())}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	err = a.streams.publish(ctx, stream.StreamID, func() error {
		token, err := a.ports.Commands.Publish(ctx, stream)
		if err != nil {
			return fmt.Errorf("starting stream %s: %w", stream.StreamID, err)
		}
		w.Header().Set("X-Log-Position", token)
		return nil
	})
	if err != nil {
		return err
	}
	a.writeJSON(w, r, http.StatusAccepted,
		streamAccepted{stream.StreamID, "accepted", streamConfig{stream.Symbols, stream.Provider}})
	return nil
}

// streamStage is the stage whose table has the streams.
const streamStage = "stream"

// newStreamID is stream_ and 40 random bits in base 32.
func newStreamID() string { return "stream_" + strings.ToLower(rand.Text()[:8]) }

func (a *API) getStreams(w http.ResponseWriter, r *http.Request) error {
	return answerLast(a, w, r, "streams", defaultLimit, maxLimit, a.ports.Streams.List)
}

func (a *API) getStream(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	stream, err := a.findStream(ctx, mux.Vars(r)["stream_id"])
	if err != nil {
		return err
	}
	a.writeState(w, r, stream)
	return nil
}

// patchStream gives a stream other symbols.
func (a *API) patchStream(w http.ResponseWriter, r *http.Request) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return err
	}
	symbols := d.symbols(schema.MaxStreamSymbols)
	if err := d.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	stream, err := a.findRunningStream(ctx, mux.Vars(r)["stream_id"])
	if err != nil {
		return err
	}
	change := schema.StreamChanged{StreamID: stream.StreamID, Symbols: a.config.symbols(stream.Provider, symbols), ChangedAt: schema.NewTime(a.config.Now())}
	token, err := a.ports.Commands.Publish(ctx, change)
	if err != nil {
		return fmt.Errorf("changing stream %s: %w", stream.StreamID, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted, streamAccepted{stream.StreamID, "accepted", streamConfig{change.Symbols, stream.Provider}})
	return nil
}

// streamCommanded answers commands to a stream.
type streamCommanded struct {
	StreamID string `json:"stream_id"`
	Status   string `json:"status"`
}

// deleteStream stops a stream. Its row stays, and says so.
func (a *API) deleteStream(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	stream, err := a.findRunningStream(ctx, mux.Vars(r)["stream_id"])
	if err != nil {
		return err
	}
	token, err := a.ports.Commands.Publish(ctx, schema.StreamStopped{StreamID: stream.StreamID, StoppedAt: schema.NewTime(a.config.Now())})
	if err != nil {
		return fmt.Errorf("stopping stream %s: %w", stream.StreamID, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted, streamCommanded{stream.StreamID, "accepted"})
	return nil
}

// findRunningStream is findStream for commands that a stopped stream does not take.
func (a *API) findRunningStream(ctx context.Context, id string) (Stream, error) {
	stream, err := a.findStream(ctx, id)
	if err == nil && stream.StoppedAt != nil {
		return Stream{}, newError(codeConflict, "Stream %s is stopped", stream.StreamID)
	}
	return stream, err
}

func (a *API) findStream(ctx context.Context, id string) (Stream, error) {
	return find(ctx, a.ports.Streams, "stream", id, noSuch("stream"))
}
