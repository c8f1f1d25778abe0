package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func newDeadLetters(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "dead-letters",
		Short: "Show the records that stages stepped over",
	}
	parent.AddCommand(newDeadLettersList(a), newDeadLettersShow(a))
	return parent
}

func newDeadLettersList(a *app) *cobra.Command {
	var output string
	var limit int
	list := &cobra.Command{
		Use:     "list",
		Short:   "List dead letters, newest first, without their bytes",
		Example: "  pricemill dead-letters list --limit 20",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				letters, err := store.DeadLetters(ctx, b.store, stage, limit)
				if err != nil {
					return err
				}
				return a.print(output, letters, func(w io.Writer) {
					fmt.Fprintln(w, "ID\tSTAGE\tTOPIC\tPARTITION\tOFFSET\tBYTES\tREASON")
					for _, l := range letters {
						fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%s\n", l.ID, l.Stage, l.Topic, l.Part, l.Offset, l.Bytes, l.Reason)
					}
				})
			})
		},
	}
	outputFlag(list, &output)
	list.Flags().IntVar(&limit, "limit", 100, "how many at the most")
	return list
}

// deadLetter is a dead letter as show prints it. Bytes are base64 in JSON, and null
// where the record has none.
type deadLetter struct {
	ID        int64        `json:"id"`
	Stage     string       `json:"stage"`
	Topic     string       `json:"topic"`
	TopicID   string       `json:"topic_id"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Reason    string       `json:"reason"`
	CreatedAt schema.Time  `json:"created_at"`
	Key       []byte       `json:"key"`
	Headers   []deadHeader `json:"headers"`
	Value     []byte       `json:"value"`
}

type deadHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

func newDeadLettersShow(a *app) *cobra.Command {
	var output string
	show := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a dead letter with all the bytes of its record",
		Example: "  pricemill dead-letters show 17\n  pricemill dead-letters show 17 -o json | jq -r .value | base64 -d",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return fmt.Errorf("%w: %q is not the number of a dead letter", errUsage, args[0])
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				letter, err := readDeadLetter(ctx, b, id)
				if err != nil {
					return err
				}
				return a.print(output, letter, letter.write)
			})
		},
	}
	outputFlag(show, &output)
	return show
}

func readDeadLetter(ctx context.Context, b *backends, id int64) (deadLetter, error) {
	l, err := store.ReadDeadLetter(ctx, b.store, id)
	if errors.Is(err, store.ErrNoDeadLetter) {
		return deadLetter{}, fmt.Errorf("there is no dead letter %d: see pricemill dead-letters list", id)
	}
	if err != nil {
		return deadLetter{}, err
	}
	headers, err := store.DecodeHeaders(l.Headers)
	if err != nil {
		return deadLetter{}, fmt.Errorf("reading dead letter %d: %w", id, err)
	}
	letter := deadLetter{ID: l.ID, Stage: l.Stage, Topic: l.Topic, TopicID: l.TopicID, Partition: l.Part, Offset: l.Offset,
		Reason: l.Reason, CreatedAt: l.CreatedAt, Key: l.Key, Headers: []deadHeader{}, Value: l.Payload}
	for _, h := range headers {
		letter.Headers = append(letter.Headers, deadHeader(h))
	}
	return letter, nil
}

// write quotes bytes: a terminal should not obey them.
func (l deadLetter) write(w io.Writer) {
	fmt.Fprintf(w, "record\toffset %d of %s/%d (%s)\n", l.Offset, l.Topic, l.Partition, l.TopicID)
	fmt.Fprintf(w, "stage\t%s, at %s\n", l.Stage, l.CreatedAt)
	fmt.Fprintf(w, "reason\t%q\nkey\t%s\n", l.Reason, quoted(l.Key))
	for _, h := range l.Headers {
		fmt.Fprintf(w, "header %q\t%s\n", h.Key, quoted(h.Value))
	}
	fmt.Fprintf(w, "value\t%s\n", quoted(l.Value))
}

func quoted(bytes []byte) string {
	if bytes == nil {
		return "null"
	}
	return strconv.Quote(string(bytes))
}
