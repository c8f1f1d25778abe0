package store

import (
	"context"
	"fmt"
)

// TakeNumbers takes n dense numbers of the chain of a partition and returns the
// last of them. The row stays locked until the transaction ends, so numbers are
// committed in their order and none is left out. Take the chains of one
// transaction in ascending order of epoch and partition, or two of them may
// deadlock.
func (t *Tx) TakeNumbers(ctx context.Context, epoch int64, part int32, n int) (last int64, err error) {
	err = t.Get(ctx, &last, `UPDATE chains SET last = last + $1 WHERE epoch = $2 AND part = $3 RETURNING last`,
		n, epoch, part)
	if err != nil {
		return 0, fmt.Errorf("taking %d numbers of chain %d/%d: %w", n, epoch, part, err)
	}
	return last, nil
}

// Chain is the state of one chain.
type Chain struct {
	Epoch int64 `db:"epoch"`
	Part  int32 `db:"part"`
	// Last is the highest number taken, Sent the highest that is in the log.
	Last int64 `db:"last"`
	Sent int64 `db:"sent"`
}

// Chains reads all chains.
func Chains(ctx context.Context, q Querier) ([]Chain, error) {
	var chains []Chain
	if err := q.Select(ctx, &chains, `SELECT epoch, part, last, sent FROM chains ORDER BY epoch, part`); err != nil {
		return nil, fmt.Errorf("reading chains: %w", err)
	}
	return chains, nil
}
