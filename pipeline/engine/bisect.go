package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// bisectTime is how long one transaction may search for what the handler refuses: on
// engines with one writer, the others wait.
const bisectTime = 3 * time.Second

// errSlowBisect says that a batch is better bisected in several transactions.
var errSlowBisect = errors.New("bisecting takes too long for one transaction")

// bisect applies all records but those that the handler refuses, which it adds to the
// letters of the plan. It finds them by halving, under savepoints: what was applied
// stays, and a half that is refused is undone alone. Of a batch of 2,000 in which
// every tenth is bad, that is 1,700 savepoints and one commit; with a transaction for
// each half, it took forty times as long as a batch without any.
func (s *Stage) bisect(ctx context.Context, tx *pipeline.Tx, plan *plan, in []pipeline.Record) ([]store.OutboxRow, error) {
	if time.Now().After(plan.bisectDeadline) {
		return nil, pipeline.Permanent(errSlowBisect)
	}
	var rows []store.OutboxRow
	err := savepoint(ctx, tx, func() (err error) {
		rows, err = s.effects(ctx, tx, slices.Clone(in), &plan.published) // a handler leaves its marks in the records
		return err
	})
	switch {
	case err == nil || !isRecordFault(err):
		return rows, err
	case len(in) == 1:
		in[0].State.Fault = err
		plan.letters = append(plan.letters, in[0])
		return nil, nil
	}
	half := len(in) / 2
	first, err := s.bisect(ctx, tx, plan, in[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.bisect(ctx, tx, plan, in[half:])
	return append(first, second...), err
}
