package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

// errTarget is wrapped where a topic cannot take a copy.
var errTarget = errors.New("no topic for this copy")

// kafkasOwn begins the names of topics that brokers make for themselves.
const kafkasOwn = "__"

// mayBeCopy says whether a topic of this name may hold a copy: not one of
// pricemill's own, of whatever installation. A prefix may be any text, so a name
// that ends as one of ours is taken for it.
func (c config) mayBeCopy(name schema.Topic) error {
	if !kafka.ValidName(string(name)) {
		return fmt.Errorf("%w: --to-topic: %q is not of 1 to 249 letters, digits, dots, underscores and hyphens", errUsage, name)
	}
	if strings.HasPrefix(string(name), kafkasOwn) {
		return fmt.Errorf("%w: --to-topic: %s begins as topics of Kafka itself do", errUsage, name)
	}
	for _, own := range schema.Topics() {
		if c.Topics[own] == string(name) || strings.HasSuffix(string(name), string(own)) {
			return fmt.Errorf("%w: --to-topic: %s is pricemill's topic %s, or that of an installation with a prefix; %s would be none",
				errUsage, name, own, own+"-copy")
		}
	}
	return nil
}

// copySummary is what a copy prints.
type copySummary struct {
	Topic   schema.Topic `json:"topic"`
	ToTopic schema.Topic `json:"to_topic"`
	Records int64        `json:"records"`
	// Beyond is what else the target got; see engine.Copied.
	Beyond     int64           `json:"beyond"`
	Complete   bool            `json:"complete"`
	Seconds    float64         `json:"seconds"`
	Partitions []engine.Copied `json:"partitions"`
}

// interruptedError says why a copy ended early, and how to continue.
type interruptedError struct {
	summary copySummary
	cause   error
}

func (e *interruptedError) Error() string {
	text := fmt.Sprintf("copying %s into %s: %v", e.summary.Topic, e.summary.ToTopic, e.cause)
	for _, c := range e.summary.Partitions {
		if c.Done() {
			continue
		}
		text += fmt.Sprintf("\ncontinue with: pricemill replay %s --partition %d --from %d --to %d --to-topic %s --append",
			e.summary.Topic, c.Partition, c.Next, c.To, e.summary.ToTopic)
	}
	if e.summary.Beyond > 0 {
		text += fmt.Sprintf("\n%d records are in %s in addition to those that were counted, and may come again", e.summary.Beyond, e.summary.ToTopic)
	}
	return text
}

// Unwrap is the cause.
func (e *interruptedError) Unwrap() error { return e.cause }

// copyTopic copies spans into r.toTopic.
func (a *app) copyTopic(ctx context.Context, c config, b *backends, r replaying, spans []engine.Span, partitions int32,
	log *slog.Logger) (err error) {
	// The topic is made with as many partitions, and its name is not ours to change.
	if b.kafka == nil {
		return fmt.Errorf("%w: --to-topic copies within a Kafka cluster, and the log of this installation is a table of its database", errUsage)
	}
	cfg := brokerConfig(c, log)
	cfg.Names, cfg.Partitions = nil, partitions
	target, err := kafka.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if err := r.prepare(ctx, b, target, partitions); err != nil {
		return err
	}
	bar := a.progress()
	bar.describe(fmt.Sprintf("copying into %s", r.toTopic))
	var drawing sync.Mutex
	began := time.Now()
	copied, copyErr := engine.Copy(ctx, engine.CopyConfig{Source: b.broker, Target: target, Spans: spans, To: r.toTopic, Grace: batchGrace,
		Progress: func(records int) {
			drawing.Lock()
			defer drawing.Unlock()
			bar.add(records)
		}})
	bar.end()
	summary := sumUpCopy(r, copied, began)
	if err := a.printCopy(summary); err != nil {
		return errors.Join(copyErr, err)
	}
	if copyErr != nil {
		return &interruptedError{summary, copyErr}
	}
	if summary.Beyond > 0 {
		log.Warn("the topic got more than the copy: records may be there twice, as an answer was lost, or someone else writes to it",
			"topic", r.toTopic, "beyond", summary.Beyond)
	}
	return nil
}

// prepare makes the topic that is to take the copy, where there is none, and refuses
// one that cannot.
func (r replaying) prepare(ctx context.Context, b *backends, target *kafka.Broker, partitions int32) error {
	infos, err := target.EnsureTopics(ctx, []schema.Topic{r.toTopic})
	if err != nil {
		return fmt.Errorf("preparing topic %s: %w", r.toTopic, err)
	}
	info := infos[r.toTopic]
	registered, err := b.store.Topics(ctx)
	if err != nil {
		return err
	}
	for _, own := range registered {
		if own.ID == info.ID {
			return fmt.Errorf("%w: %w: %s is the topic that the database knows as %s", errUsage, errTarget, r.toTopic, own.Name)
		}
	}
	if info.Partitions < partitions {
		return fmt.Errorf("%w: %s has %d partitions, and %s has %d", errTarget, r.toTopic, info.Partitions, r.topic, partitions)
	}
	keeps, err := target.KeepsTimestamps(ctx, r.toTopic)
	if err != nil {
		return err
	}
	if !keeps {
		return fmt.Errorf("%w: message.timestamp.type of %s is LogAppendTime, and a copy keeps its timestamps: set CreateTime", errTarget, r.toTopic)
	}
	held, err := target.Offsets(ctx, r.toTopic)
	if err != nil {
		return err
	}
	if full := slices.IndexFunc(held, func(h log.OffsetRange) bool { return h.Oldest < h.End }); full >= 0 && !r.append {
		return fmt.Errorf("%w: %s has records, as on partition %d from %d to %d; --append copies after them",
			errTarget, r.toTopic, full, held[full].Oldest, held[full].End-1)
	}
	return nil
}

func sumUpCopy(r replaying, copied []engine.Copied, began time.Time) copySummary {
	s := copySummary{Topic: r.topic, ToTopic: r.toTopic, Complete: true, Seconds: time.Since(began).Seconds(), Partitions: copied}
	for _, c := range copied {
		s.Records += c.Records
		s.Beyond += c.Beyond
		s.Complete = s.Complete && c.Done()
	}
	return s
}

// printCopy prints a table for people, and one line of JSON for programs.
func (a *app) printCopy(s copySummary) error {
	if !isTerminal(a.stdout) {
		return json.NewEncoder(a.stdout).Encode(s)
	}
	return a.print("table", s, func(w io.Writer) {
		fmt.Fprintln(w, "PARTITION\tFROM\tTO\tCOPIED TO\tRECORDS\tBEYOND")
		for _, c := range s.Partitions {
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\n", c.Partition, c.From, c.To, c.Next, c.Records, c.Beyond)
		}
	})
}
