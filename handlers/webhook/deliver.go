package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/pipeline"
)

// The content types of a request.
const (
	oneEvent   = "application/cloudevents+json"
	manyEvents = "application/cloudevents-batch+json"
)

// body is the body of a request, and its content type.
func (h *handler) body(records []*pipeline.Record) ([]byte, string, error) {
	events := make([]target.Event, len(records))
	for i, r := range records {
		events[i] = target.EventOf(r)
	}
	if h.settings.Batch == 1 {
		body, err := json.Marshal(events[0])
		return body, oneEvent, err
	}
	body, err := json.Marshal(events)
	return body, manyEvents, err
}

// post sends one request, and returns nil once the receiver has accepted it.
func (h *handler) post(ctx context.Context, records []*pipeline.Record) error {
	body, contentType, err := h.body(records)
	if err != nil {
		return pipeline.Permanent(fmt.Errorf("encoding events: %w", err))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making a request to %s failed", h.host) // its error holds the URL
	}
	id, at := records[len(records)-1].Event.ID, h.now()
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", h.agent)
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	if h.signer != nil {
		signature, err := h.signer.Sign(id, at, body)
		if err != nil {
			return fmt.Errorf("signing a request to %s: %w", h.host, err)
		}
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return fmt.Errorf("posting to %s: %w", h.host, remote.NoAnswer(ctx, err))
	}
	return h.judge(resp)
}

// judge says what an answer means.
func (h *handler) judge(resp *http.Response) error {
	defer drain(resp)
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err := fmt.Errorf("%s answered %d", h.host, resp.StatusCode)
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return pipeline.Permanent(err)
	}
	if after := remote.RetryAfter(resp.Header, "", h.now()); after > 0 {
		return pipeline.RetryAfter(after, err)
	}
	return err
}

// maxDrained is how much of an answer is read, in bytes, so that its connection can be used
// again.
const maxDrained = 64 << 10

func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
	_ = resp.Body.Close() // nothing that matters was left in it
}

// refuseRedirect has a redirect be an answer like any other, which is not 2xx: the operator
// says where a receiver has moved to.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
