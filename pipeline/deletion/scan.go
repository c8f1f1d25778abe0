package deletion

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// found is what a look through the log found.
type found struct {
	records map[schema.Topic]int64
	jobs    map[string]bool
	ends    map[schema.Topic][]int64
	left    []Left
	// total and bytes are how many records there are, and their size, by topic.
	total, bytes map[schema.Topic]int64
}

// scan looks through the whole log.
func (c Config) scan(ctx context.Context) (found, error) {
	f := found{records: map[schema.Topic]int64{}, jobs: map[string]bool{}, ends: map[schema.Topic][]int64{}, total: map[schema.Topic]int64{}, bytes: map[schema.Topic]int64{}}
	topics, err := c.topicsInOrder(ctx)
	if err != nil {
		return f, err
	}
	s := scanner{Config: c, found: f, answers: map[string]bool{}}
	for _, topic := range topics {
		ranges, err := c.log().Offsets(ctx, topic)
		if err != nil {
			return f, fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, held := range ranges {
			f.ends[topic] = append(f.ends[topic], held.End)
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			err := c.log().Read(ctx, tp, held.Oldest, held.End, func(records []pipeline.Record) error {
				for i := range records {
					s.total[topic]++
					s.bytes[topic] += int64(log.OutgoingRecord{Key: records[i].Key, Headers: records[i].Headers, Value: records[i].Value}.Size())
					if err := s.record(&records[i]); err != nil {
						return err
					}
				}
				c.Progress(len(records))
				return nil
			})
			if err != nil {
				return f, err
			}
		}
	}
	if s.unread > 0 {
		s.found.left = append(s.found.left, Left{"records that cannot be read", s.unread, "they name no provider, or no symbol: see pricemill dead-letters list"})
	}
	return s.found, nil
}

// topicsInOrder are those of the log, that of the answers first.
func (c Config) topicsInOrder(ctx context.Context) ([]schema.Topic, error) {
	topics, err := c.Store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	if c.Kafka != nil {
		if err := c.checkTopics(ctx); err != nil {
			return nil, err
		}
	}
	names := []schema.Topic{schema.RawQuotes}
	for _, t := range topics {
		if name := schema.Topic(t.Name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// scanner looks at each record.
type scanner struct {
	Config
	found
	// answers are those of the provider, where the data of one symbol are deleted, by their
	// ids: whether they are that symbol's.
	answers map[string]bool
	unread  int64
}

func (s *scanner) record(r *pipeline.Record) error {
	subjects, unread := schema.SubjectsOf(r.Topic, r.Key, r.Headers, r.Value)
	holds := slices.ContainsFunc(subjects, s.Subject.Holds)
	noSymbol := schema.Subject{Provider: s.Subject.Provider}
	if unread && !holds && (len(subjects) == 0 || slices.Contains(subjects, noSymbol)) && r.Topic != schema.PollingJobs {
		s.unread++
	}
	if holds {
		s.records[r.Topic]++
	}
	ofProvider := slices.ContainsFunc(subjects, schema.Subject{Provider: s.Subject.Provider}.Holds)
	if unread || !ofProvider {
		return nil
	}
	event, err := schema.DecodeEvent(r.Headers, r.Value)
	if err != nil {
		return nil // not reached: it was read
	}
	if request, ok := event.Payload.(schema.FetchRequested); ok && holds {
		if job := schema.JobOfRequest(request.RequestID); job != "" {
			s.jobs[job] = true
		}
	}
	if s.Subject.Symbol == "" {
		return nil
	}
	if _, ok := event.Payload.(schema.QuoteFetched); ok {
		s.answers[event.ID] = holds
		return nil
	}
	if of, known := s.answers[answerOf(event.Payload)]; known && of != holds {
		return fmt.Errorf("%w: an answer of %s has prices of several symbols, and %s is one of them: only all data of the provider can be deleted (offset %d of %s)",
			ErrRefused, s.Subject.Provider, s.Subject.Symbol, r.Offset, r.TopicPartition)
	}
	return nil
}

// answerOf is the id of the answer that an event follows from.
func answerOf(payload schema.Payload) string {
	if added, ok := payload.(schema.PriceAdded); ok {
		payload = added.Fact()
	}
	if p, ok := schema.PriceOf(payload); ok {
		return p.RawResponseID
	}
	switch p := payload.(type) {
	case schema.QuoteUnchanged:
		return p.RawResponseID
	case schema.QuoteRejected:
		return p.RawResponseID
	}
	return ""
}
