package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func newReplay(a *app) *cobra.Command {
	var from, to int64
	var partition int32
	c := &cobra.Command{
		Use:   "replay TOPIC",
		Short: "Print the records of a topic as JSON lines",
		Long: `Print the records of a topic as JSON lines, partition by partition, from the
log and without disturbing anyone. It works beside a running service and without
one.`,
		Example: "  pricemill replay price-events\n  pricemill replay price-events --partition 2 --from 100 --to 200",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.replay(c.Context(), schema.Topic(args[0]), partition, from, to)
		},
	}
	c.Flags().Int64Var(&from, "from", 0, "first offset of each partition")
	c.Flags().Int64Var(&to, "to", -1, "offset to stop before; -1: the end of the log as it is now")
	c.Flags().Int32Var(&partition, "partition", -1, "only this partition; -1: all")
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

func (a *app) replay(ctx context.Context, topic schema.Topic, partition int32, from, to int64) (err error) {
	if known := schema.Topics(); !slices.Contains(known, topic) {
		return fmt.Errorf("%w: there is no topic %q; there are %q", errUsage, topic, known)
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	b, err := open(ctx, c, beside, a.logger(c))
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := b.close(); err == nil {
			err = closeErr
		}
	}()
	ranges, err := b.broker.Offsets(ctx, topic)
	if err != nil {
		return fmt.Errorf("asking for the ends of %s: %w", topic, err)
	}
	if partition >= int32(len(ranges)) {
		return fmt.Errorf("%w: topic %s has partitions 0 to %d", errUsage, topic, len(ranges)-1)
	}
	out := bufio.NewWriter(a.stdout)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for p, r := range ranges {
		if partition >= 0 && partition != int32(p) {
			continue
		}
		first, end := max(from, r.Oldest), r.End
		if to >= 0 {
			end = min(end, to)
		}
		if first >= end {
			continue
		}
		err := b.broker.Read(ctx, pipeline.TopicPartition{Topic: topic, Partition: int32(p)}, first, end,
			func(records []pipeline.Record) error {
				for _, record := range records {
					if err := encoder.Encode(toLine(record)); err != nil {
						return err
					}
				}
				return nil
			})
		if err != nil {
			return fmt.Errorf("replaying %s/%d: %w", topic, p, err)
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
