package refill

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// scan reads the whole log once: the timelines of its chains, which it enters into the
// database, and the ids of the events that stages derived.
func (r *refiller) scan(ctx context.Context) error {
	r.Step("reading the log")
	r.published, r.stages = &eventSet{ids: map[[16]byte]struct{}{}}, map[string]bool{}
	retired, err := r.retired(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var all []store.KnownChain
	var lineages []schema.TopicLineage
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for tp, end := range r.ends {
		group.Go(func() error {
			topic, _ := r.Topics.Topic(tp.Topic)
			t := timelines{epoch: topic.Epoch, part: tp.Partition, all: r.Restored}
			err := r.Broker.Read(reading, tp, 0, end, func(records []pipeline.Record) error {
				r.published.add(t.follow(records))
				t.lineages = append(t.lineages, lineagesOf(records)...)
				r.Progress(len(records))
				return beyond(records, r.held[tp], retired[tp])
			})
			if err != nil {
				return fmt.Errorf("reading %s: %w", tp, err)
			}
			mu.Lock()
			defer mu.Unlock()
			all, lineages = append(all, t.found...), append(lineages, t.lineages...)
			for stage := range t.stages {
				r.stages[stage] = true
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	r.result.DerivedTwice = r.published.twice
	slices.SortStableFunc(all, func(a, b store.KnownChain) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Part, b.Part))
	})
	if r.Restored { // it knows what events follow from
		return r.Store.Write(ctx, func(tx *store.Tx) error { return tx.ContinueTimelines(ctx, all, r.inLog) })
	}
	err = r.Store.Write(ctx, func(tx *store.Tx) (err error) {
		for _, l := range lineages {
			if err := tx.RestoreLineage(ctx, string(l.Name), l.TopicID, l.Lineage); err != nil {
				return err
			}
		}
		r.again, err = tx.RestoreTimelines(ctx, all)
		return err
	})
	if err != nil || len(lineages) == 0 {
		return err
	}
	return r.Topics.Refresh(ctx)
}

// lineagesOf are what deletions say of topics that they wrote again.
func lineagesOf(records []pipeline.Record) (lineages []schema.TopicLineage) {
	for i := range records {
		if records[i].Topic != schema.PollingJobs {
			return nil
		}
		event, err := schema.DecodeEvent(records[i].Headers, records[i].Value)
		if err != nil {
			continue // a dead letter, which its stages say
		}
		if deleted, ok := event.Payload.(schema.DataDeleted); ok {
			lineages = append(lineages, deleted.Topics...)
		}
	}
	return lineages
}

// retired are the last numbers of the timelines that a restored database had retired.
func (r *refiller) retired(ctx context.Context) (map[pipeline.TopicPartition]map[string]int64, error) {
	if !r.Restored {
		return nil, nil
	}
	known, err := store.KnownChains(ctx, r.Store)
	if err != nil {
		return nil, err
	}
	retired := map[pipeline.TopicPartition]map[string]int64{}
	for _, c := range known {
		if tp := log.PartitionOfChain(c); !c.Current {
			if retired[tp] == nil {
				retired[tp] = map[string]int64{}
			}
			retired[tp][c.Timeline] = c.Given
		}
	}
	return retired, nil
}

// beyond refuses records that no stage of a restored database has read, and that continue a timeline
// which it has retired: the service has noticed that the log is ahead, and has worked since.
func beyond(records []pipeline.Record, held int64, retired map[string]int64) error {
	for i := range records {
		if len(retired) == 0 || records[i].Offset < held {
			continue
		}
		link, _, err := chain.LinkOf(records[i].Headers)
		if given, is := retired[link.Timeline]; err == nil && is && link.Seq > given {
			return fmt.Errorf("%w: number %d of chain %s, after number %d", ErrBegun, link.Seq, link.Timeline, given)
		}
	}
	return nil
}

// inLog reports whether the log has an event of the outbox.
func (r *refiller) inLog(row store.OutboxRow) (bool, error) {
	headers, err := store.DecodeHeaders(row.Headers)
	if err != nil {
		return false, fmt.Errorf("reading row %d of chain %d/%d: %w", row.Seq, row.Epoch, row.Part, err)
	}
	return r.published.holds(schema.EventID(headers)), nil
}

// timelines are those of a partition, in the order in which they begin.
type timelines struct {
	epoch int64
	part  int32
	found []store.KnownChain
	// all says that the ids of events count which no stage derived: a restored outbox has those too.
	all bool
	// stages are the names of those that gave the events.
	stages map[string]bool
	// lineages are what deletions say of topics.
	lineages []schema.TopicLineage
}

// follow notes the numbers of records, and returns the ids of those that stages derived, but for
// repeats of a relay.
func (t *timelines) follow(records []pipeline.Record) (derivedIDs []string) {
	for i := range records {
		link, derived, err := chain.LinkOf(records[i].Headers)
		if err != nil || link == (chain.Link{}) {
			continue // the former is a dead letter, which its stages say
		}
		t.gave(records[i].Headers)
		at := slices.IndexFunc(t.found, func(c store.KnownChain) bool { return c.Timeline == link.Timeline })
		if at < 0 {
			at = len(t.found)
			t.found = append(t.found, store.KnownChain{Epoch: t.epoch, Part: t.part, Timeline: link.Timeline})
		}
		c := &t.found[at]
		repeated := link.Seq <= c.Given // a relay sent it again
		c.Given = max(c.Given, link.Seq)
		// A relay that was late may have sent numbers again that continued on the next
		// timeline: a number that was sent is one from before that timeline began.
		if at == len(t.found)-1 {
			c.Sent = c.Given
		}
		if (derived || t.all) && !repeated {
			derivedIDs = append(derivedIDs, schema.EventID(records[i].Headers))
		}
	}
	return derivedIDs
}

// gave notes which stage gave an event.
func (t *timelines) gave(headers []schema.Header) {
	for _, h := range headers {
		if h.Key != "ce_source" {
			continue
		}
		if stage, ours := bytes.CutPrefix(h.Value, []byte(pipeline.SourcePrefix)); ours && !t.stages[string(stage)] {
			if t.stages == nil {
				t.stages = map[string]bool{}
			}
			t.stages[string(stage)] = true
		}
	}
}

// eventSet are events by 128 bits of their ids. It is safe for concurrent use.
type eventSet struct {
	mu  sync.RWMutex
	ids map[[16]byte]struct{}
	// twice is how many events were added under an id that was there.
	twice int64
	// met and unmet are how many events has was asked for that are in the set, and that are not.
	met, unmet atomic.Int64
}

// keyOf is the id itself where it is a UUID, as all of ours are, or else what a hash makes
// of it.
func keyOf(id string) [16]byte {
	if parsed, err := uuid.Parse(id); err == nil && len(id) == 36 {
		return parsed
	}
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

func (s *eventSet) add(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		key := keyOf(id)
		if _, there := s.ids[key]; there {
			s.twice++
		}
		s.ids[key] = struct{}{}
	}
}

// holds reports whether the log has the event of this id.
func (s *eventSet) holds(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, there := s.ids[keyOf(id)]
	return there
}

// has is holds, and counts what is asked.
func (s *eventSet) has(id string) bool {
	there := s.holds(id)
	if there {
		s.met.Add(1)
	} else {
		s.unmet.Add(1)
	}
	return there
}

// strangers is how many events a refill takes to notice that none is in the log.
const strangers = 100

// strange reports whether events follow from the log by other ids than it has.
func (s *eventSet) strange() bool {
	return s.met.Load() == 0 && s.unmet.Load() > strangers && len(s.ids) > strangers
}
