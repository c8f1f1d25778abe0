package fetch

import (
	"context"
	"fmt"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/schema"
)

var _ audit.Audited = (*handler)(nil)

// Audit implements audit.Audited: each request has one outcome, or waits for
// it in the queue, and nothing waits that was not requested.
func (h *handler) Audit(ctx context.Context, view *audit.View) (audit.Auditor, error) {
	var open []string
	if err := view.Select(ctx, &open, `SELECT request_id FROM fetch_queue`); err != nil {
		return nil, fmt.Errorf("reading the open requests: %w", err)
	}
	a := &auditor{view: view, open: make(map[string]bool, len(open))}
	for _, id := range open {
		a.open[id] = true
	}
	return a, nil
}

type auditor struct {
	view *audit.View

	mu   sync.Mutex
	open map[string]bool // requests in the queue that no one was met for
}

// Partition implements audit.Auditor.
func (a *auditor) Partition(pipeline.TopicPartition) audit.PartitionAuditor {
	return &partition{auditor: a}
}

// partition is the work on one partition.
type partition struct{ *auditor }

// Applied implements audit.PartitionAuditor. An outcome that a provider had a
// part in is emitted, with an id that follows from the request's; where there was
// no such provider, it is derived. Two of one id are for the audit to find.
func (p *partition) Applied(_ context.Context, r *pipeline.Record, events int) error {
	id := r.Event.Payload.(schema.FetchRequested).RequestID
	outcomes := events
	if p.view.Emitted(schema.DeriveID(Name, id)) {
		outcomes++
		p.view.Finding.Count("fetched or failed", 1)
	}
	p.mu.Lock()
	waits := p.open[id]
	delete(p.open, id)
	p.mu.Unlock()
	if waits {
		outcomes++
		p.view.Finding.Count("waiting for an outcome", 1)
	}
	switch {
	case outcomes == 0:
		p.view.Missing("request %s, at offset %d of %s, has no outcome and waits for none", id, r.Offset, r.TopicPartition)
	case outcomes > 1:
		p.view.Finding.Add(1, 0, int64(outcomes-1), fmt.Sprintf("request %s, at offset %d of %s, has more than one outcome, or has one and waits for another",
			id, r.Offset, r.TopicPartition))
	}
	return nil
}

// End implements audit.PartitionAuditor.
func (*partition) End(context.Context) error { return nil }

// End implements audit.Auditor.
func (a *auditor) End(context.Context) error {
	if len(a.open) > 0 && !a.view.Whole(schema.FetchRequests) {
		a.view.Finding.NotChecked("requests in fetch_queue may be older than what the log holds")
		return nil
	}
	for id := range a.open {
		a.view.Finding.Duplicate("request %s waits in fetch_queue, and no record asks for it", id)
	}
	return nil
}
