package pipeline

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

// siftTime is how long one transaction may look for what the handler refuses: on
// engines with one writer, the others wait.
const siftTime = 3 * time.Second

// errSlowSift says that a batch is better sifted in several transactions.
var errSlowSift = errors.New("sifting takes too long for one transaction")

// sift applies all records but those that the handler refuses, which it adds to the
// letters of the plan. It finds them by halving, within the transaction: what was
// applied stays, a part that is refused is undone alone. Of a batch of 2,000 in
// which every tenth is bad, that is 1,700 parts and one commit; with a transaction
// for each part, it took forty times as long as a batch without any.
func (s *Stage) sift(ctx context.Context, tx *Tx, plan *plan, in []Record) ([]store.OutboxRow, error) {
	if time.Now().After(plan.siftUntil) {
		return nil, Permanent(errSlowSift)
	}
	var rows []store.OutboxRow
	err := tx.part(ctx, func() (err error) {
		rows, err = s.effects(ctx, tx, slices.Clone(in)) // a handler leaves its marks in the records
		return err
	})
	switch {
	case err == nil || !isRecordFault(err):
		return rows, err
	case len(in) == 1:
		in[0].fault = err
		plan.letters = append(plan.letters, in[0])
		return nil, nil
	}
	half := len(in) / 2
	first, err := s.sift(ctx, tx, plan, in[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.sift(ctx, tx, plan, in[half:])
	return append(first, second...), err
}

// part runs f as a part of the transaction that can fail alone: then all that it
// did, remembered and left for after the commit is undone. Parts do not nest.
func (t *Tx) part(ctx context.Context, f func() error) error {
	hooks := len(t.hooks)
	for _, m := range t.memories {
		m.begin()
	}
	err := t.Part(ctx, f)
	if t.abandoned {
		return err
	}
	if err != nil {
		t.hooks = t.hooks[:hooks]
	}
	for _, m := range t.memories {
		m.end(err == nil)
	}
	return err
}
