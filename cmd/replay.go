package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// replaying is what the flags of replay say.
type replaying struct {
	topic     schema.Topic
	partition int32
	from, to  string
	toTopic   schema.Topic
	// copying says that --to-topic was given, if only as nothing.
	copying, append bool
}

func newReplay(a *app) *cobra.Command {
	var r replaying
	var target string
	c := &cobra.Command{
		Use:   "replay TOPIC",
		Short: "Print the records of a topic as JSON lines, or copy them",
		Long: `Print the records of a topic as JSON lines, partition by partition. Nothing is
consumed or changed, and the service may be running or not.

--from and --to take an offset (1200), a time by RFC 3339
(2026-03-01T09:30:00Z), a date (00:00 UTC), or how long ago (90m). By time, each
partition begins, or ends, at the first record whose timestamp is at or after
it; the timestamp says when the record was written to the log. Where the log
holds less than was asked for, standard error says so.

--to-topic, which needs Kafka, copies the records instead, as they are: key,
headers, value, timestamp and partition, in their order. Their offsets become
others. The topic is created with as many partitions, and keeps its records
forever; one that has records already is refused without --append. It is never
one of pricemill's own, with any prefix: those belong to their service
alone.

A copy is for other programs: nothing of pricemill reads it. It has all headers,
also ce_outboxid and ce_outboxseq, by which pricemill's stages notice records
that are missing; an installation whose KAFKA_TOPIC_PRICE_EVENTS names a copy of
another one's topic halts at its first record, as one that another database
wrote.

A copy that is interrupted says how far each partition came, and how to
continue. Where an answer of Kafka was lost, records may be in the copy twice;
the summary counts them as beyond.`,
		Example: "  pricemill replay price-events\n  pricemill replay price-events --partition 2 --from 100 --to 200\n" +
			"  pricemill replay price-events --from 24h --to 1h\n  pricemill replay price-events --from 2026-03-01 --to-topic march",
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.topic, r.toTopic, r.copying = schema.Topic(args[0]), schema.Topic(target), c.Flags().Changed("to-topic")
			return a.replay(c.Context(), r)
		},
	}
	flags := c.Flags()
	flags.StringVar(&r.from, "from", "0", "where each partition begins: an offset, a time, a date or how long ago")
	flags.StringVar(&r.to, "to", "-1", "where it ends, before that record: an offset, a time, a date or how long ago; -1: the end of the log as it is now")
	flags.Int32Var(&r.partition, "partition", -1, "only the partition of this `number`; -1: all")
	flags.StringVar(&target, "to-topic", "", "copy into this topic instead of printing")
	flags.BoolVar(&r.append, "append", false, "copy into a topic that has records, after them")
	return c
}

// line is a record as replay prints it.
type line struct {
	Topic     schema.Topic      `json:"topic"`
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Timestamp time.Time         `json:"timestamp"`
	Key       string            `json:"key"`
	Headers   map[string]string `json:"headers"`
	// Value is the payload where it is JSON, else a string, else, where it is
	// not even UTF-8, {"base64": …}.
	Value any `json:"value"`
}

func (a *app) replay(ctx context.Context, r replaying) (err error) {
	if known := schema.Topics(); !slices.Contains(known, r.topic) {
		return fmt.Errorf("%w: there is no topic %q; %s", errUsage, r.topic, names.Hint(string(r.topic), known))
	}
	if r.append && !r.copying {
		return fmt.Errorf("%w: --append is for --to-topic", errUsage)
	}
	within, err := r.bounds(time.Now())
	if err != nil {
		return err
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	if r.copying {
		if err := c.mayBeCopy(r.toTopic); err != nil {
			return err
		}
	}
	log := a.logger(c)
	b, err := open(ctx, c, reading, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	held, err := b.broker.Offsets(ctx, r.topic)
	if err != nil {
		return fmt.Errorf("asking for the ends of %s: %w", r.topic, err)
	}
	if r.partition >= int32(len(held)) {
		return fmt.Errorf("%w: topic %s has partitions 0 to %d", errUsage, r.topic, len(held)-1)
	}
	spans, err := r.spans(ctx, b.broker, within, held, log)
	if err != nil {
		return err
	}
	if r.copying {
		return a.copyTopic(ctx, c, b, r, spans, int32(len(held)), log)
	}
	return a.printRecords(ctx, b, spans)
}

func (a *app) printRecords(ctx context.Context, b *backends, spans []engine.Span) error {
	out := bufio.NewWriter(a.stdout)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for _, span := range spans {
		err := b.broker.Read(ctx, span.TopicPartition, span.From, span.To, func(records []pipeline.Record) error {
			for _, record := range records {
				if err := encoder.Encode(toLine(record)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("replaying %s: %w", span.TopicPartition, err)
		}
	}
	return out.Flush()
}

func toLine(r pipeline.Record) line {
	l := line{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC(),
		Key: string(r.Key), Headers: map[string]string{}}
	for _, h := range r.Headers {
		l.Headers[h.Key] = string(h.Value)
	}
	switch {
	case json.Valid(r.Value):
		l.Value = json.RawMessage(r.Value)
	case utf8.Valid(r.Value):
		l.Value = string(r.Value)
	default:
		l.Value = map[string][]byte{"base64": r.Value}
	}
	return l
}
