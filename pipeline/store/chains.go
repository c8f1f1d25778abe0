package store

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// Chain is the numbers given to the events for one partition, dense and from 1.
type Chain struct {
	Epoch int64 `db:"epoch"`
	Part  int32 `db:"part"`
	// Timeline names one numbering of the chain; its records carry it. Numbers are
	// compared only within one timeline.
	Timeline string `db:"outbox"`
	// Last is the highest number taken, Sent the highest that is in the log.
	Last int64 `db:"last"`
	Sent int64 `db:"sent"`
}

const chainColumns = `epoch, part, outbox, last, sent`

// Numbers are N dense numbers of the chain of a partition, up to Last.
type Numbers struct {
	Epoch int64 `db:"epoch"`
	Part  int32 `db:"part"`
	N     int   `db:"-"`
	Last  int64 `db:"last"`
	// Timeline is the one they were taken of.
	Timeline string `db:"outbox"`
}

// First is the first of them.
func (n Numbers) First() int64 { return n.Last - int64(n.N) + 1 }

// TakeNumbers takes N dense numbers of each chain, which occurs once, and fills in
// Last and Timeline. The chains' rows stay locked until the transaction ends, so numbers are
// committed in their order and none is left out. They are locked in ascending order
// of epoch and partition, so that two transactions never wait for each other in a
// circle: take all of a transaction's at once.
func (t *Tx) TakeNumbers(ctx context.Context, wanted []Numbers) error {
	return t.takeNumbers(ctx, wanted, `last = last + held.n`)
}

func (t *Tx) takeNumbers(ctx context.Context, wanted []Numbers, set string) error {
	if len(wanted) == 0 {
		return nil
	}
	var args []any
	index := make(map[[2]int64]int, len(wanted))
	for i, w := range wanted {
		args = append(args, w.Epoch, w.Part, w.N)
		index[[2]int64{w.Epoch, int64(w.Part)}] = i
	}
	table, args, err := t.store.engine.Values(numberColumns, args)
	if err != nil {
		return fmt.Errorf("taking numbers of %d chains: %w", len(wanted), err)
	}
	var taken []Numbers
	// A chain that another transaction has just moved is moved on from there: the
	// lock waits for its commit, and the UPDATE adds to what is there then.
	err = t.Select(ctx, &taken, `WITH v (epoch, part, n) AS (`+table+`),
		held AS (SELECT v.* FROM chains JOIN v ON chains.epoch = v.epoch AND chains.part = v.part
			ORDER BY v.epoch, v.part `+t.LockRows("chains")+`)
		UPDATE chains SET `+set+` FROM held WHERE chains.epoch = held.epoch AND chains.part = held.part
		RETURNING chains.epoch, chains.part, chains.last, chains.outbox`, args...)
	if err != nil {
		return fmt.Errorf("taking numbers of %d chains: %w", len(wanted), err)
	}
	if len(taken) != len(wanted) {
		return fmt.Errorf("taking numbers of %d chains: there are %d", len(wanted), len(taken))
	}
	for _, n := range taken {
		w := &wanted[index[[2]int64{n.Epoch, int64(n.Part)}]]
		w.Last, w.Timeline = n.Last, n.Timeline
	}
	return nil
}

var numberColumns = []string{"BIGINT", "BIGINT", "BIGINT"}

// Chains reads all chains.
func Chains(ctx context.Context, q Querier) ([]Chain, error) {
	var chains []Chain
	if err := q.Select(ctx, &chains, `SELECT `+chainColumns+` FROM chains ORDER BY epoch, part`); err != nil {
		return nil, fmt.Errorf("reading chains: %w", err)
	}
	return chains, nil
}

// ChainsTotal is the number of all chains, and the sum of the last numbers of all: while
// neither changes, it is all but certain that no chain grew. Reading it costs a third of
// reading the chains.
func ChainsTotal(ctx context.Context, q Querier) (n, last int64, err error) {
	var rows []struct {
		Number int64 `db:"number"`
		Last   int64 `db:"last"`
	}
	// Without the cast, PostgreSQL sums to a numeric.
	if err := q.Select(ctx, &rows, `SELECT count(*) AS number, CAST(coalesce(sum(last), 0) AS BIGINT) AS last FROM chains`); err != nil {
		return 0, 0, fmt.Errorf("counting the records of chains: %w", err)
	}
	return rows[0].Number, rows[0].Last, nil
}

// ChainsAt reads the chains of some epochs and partitions; the other fields of at do
// not matter.
func ChainsAt(ctx context.Context, q Querier, at []Chain) ([]Chain, error) {
	if len(at) == 0 {
		return nil, nil
	}
	var args []any
	for _, c := range at {
		args = append(args, c.Epoch, c.Part)
	}
	var chains []Chain
	err := q.Select(ctx, &chains, `WITH v (epoch, part) AS (`+ValuesList(numberColumns[:2], args)+`)
		SELECT chains.epoch, chains.part, outbox, last, sent FROM v JOIN chains ON chains.epoch = v.epoch AND chains.part = v.part`, args...)
	if err != nil {
		return nil, fmt.Errorf("reading %d chains: %w", len(at), err)
	}
	return chains, nil
}

// KnownChain is a timeline on which this database wrote, or writes, to a partition
// of a topic, in any incarnation.
type KnownChain struct {
	Topic    string `db:"name"`
	Epoch    int64  `db:"epoch"`
	Part     int32  `db:"part"`
	Timeline string `db:"outbox"`
	// Sent is the highest number of this timeline that is known to be, or to have
	// been, in the log; Given the highest that there is. Numbers of a former timeline
	// between them continued on the next one.
	Sent  int64 `db:"sent"`
	Given int64 `db:"given"`
	// Current says that the timeline is in use: its numbers keep rising.
	Current bool `db:"current"`
}

// KnownChains reads all timelines there ever were, those of a partition in their
// order.
func KnownChains(ctx context.Context, q Querier) ([]KnownChain, error) {
	var known []KnownChain
	err := q.Select(ctx, &known, `SELECT name, named.epoch, part, outbox, sent, given,
			CASE WHEN retired = 0 AND named.epoch = (SELECT MAX(newest.epoch) FROM topics newest WHERE newest.name = topics.name)
				THEN 1 ELSE 0 END AS current
		FROM (SELECT epoch, part, outbox, sent, last AS given, 0 AS ordinal, 0 AS retired FROM chains
			UNION ALL SELECT epoch, part, outbox, sent, given, ordinal, 1 FROM retired_chains) named
		JOIN topics ON topics.epoch = named.epoch ORDER BY name, part, named.epoch, retired DESC, ordinal`)
	if err != nil {
		return nil, fmt.Errorf("reading the timelines of chains: %w", err)
	}
	return known, nil
}

// newTimeline makes a timeline that no other database can have.
func newTimeline() (string, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("naming a timeline: %w", err)
	}
	return id.String(), nil
}

// RenewChain starts a new timeline of a chain that is on this one: what is in the log
// on the present one may have been written by a state of the database that no longer
// exists. inLog says what the log has under the number of a waiting event: those that
// are there already are not sent again, the others begin the new timeline. A chain on
// another timeline was renewed by another process.
func (t *Tx) RenewChain(ctx context.Context, epoch int64, part int32, timeline string, inLog func(OutboxRow) (InLog, error)) error {
	chain, err := t.lockChain(ctx, epoch, part)
	if err != nil || chain.Timeline != timeline {
		return err
	}
	rows, err := t.waiting(ctx, chain)
	if err != nil {
		return err
	}
	sent, given := chain.Sent, chain.Last
	for _, row := range rows {
		found, err := inLog(row)
		if err != nil {
			return err
		}
		if found == Same && row.Seq == sent+1 {
			sent = row.Seq
		}
		if found == Another {
			// Anyone who meets these numbers must not take them for these events.
			given = min(given, row.Seq-1)
		}
	}
	given = max(given, sent)
	name, err := newTimeline()
	if err != nil {
		return err
	}
	if _, err := t.Exec(ctx, `INSERT INTO retired_chains (epoch, part, ordinal, outbox, sent, given)
		SELECT $1, $2, COUNT(*) + 1, $3, $4, $5 FROM retired_chains WHERE epoch = $1 AND part = $2`,
		epoch, part, chain.Timeline, sent, given); err != nil {
		return fmt.Errorf("retiring the timeline of chain %d/%d: %w", epoch, part, err)
	}
	if _, err := t.Exec(ctx, `UPDATE chains SET outbox = $1, last = 0, sent = 0 WHERE epoch = $2 AND part = $3`, name, epoch, part); err != nil {
		return fmt.Errorf("renewing chain %d/%d: %w", epoch, part, err)
	}
	return t.moveRows(ctx, chain, rows, sent, epoch, func([]byte) int32 { return part })
}

// InLog is what the log has under the number of an event that waits.
type InLog int

const (
	Absent  InLog = iota // nothing
	Same                 // that event
	Another              // another event: a later state of the database gave the number too
)

// lockChain reads a chain; no one takes a number of it until the transaction ends.
func (t *Tx) lockChain(ctx context.Context, epoch int64, part int32) (Chain, error) {
	var chain Chain
	err := t.Get(ctx, &chain, `SELECT `+chainColumns+` FROM chains WHERE epoch = $1 AND part = $2 `+t.LockRows("chains"), epoch, part)
	if err != nil {
		return Chain{}, fmt.Errorf("reading chain %d/%d: %w", epoch, part, err)
	}
	return chain, nil
}

// waiting are the rows of a chain that are not known to be in the log.
func (t *Tx) waiting(ctx context.Context, chain Chain) ([]OutboxRow, error) {
	var rows []OutboxRow
	err := t.Select(ctx, &rows, `SELECT epoch, part, seq, msg_key, headers, payload FROM outbox
		WHERE epoch = $1 AND part = $2 AND seq > $3 ORDER BY seq`, chain.Epoch, chain.Part, chain.Sent)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox of chain %d/%d: %w", chain.Epoch, chain.Part, err)
	}
	return rows, nil
}

// NoteApplied notes that a stage has applied the chain of this name up to a
// number: so far it was in the log, although it may not have been noted. A number
// above the last one given says nothing about the chain.
func (t *Tx) NoteApplied(ctx context.Context, topic string, part int32, outbox string, seq int64) error {
	var chains []Chain
	err := t.Select(ctx, &chains, `SELECT `+chainColumns+` FROM chains WHERE part = $1 AND outbox = $2 AND sent < $3 AND last >= $3
		AND epoch IN (SELECT epoch FROM topics WHERE name = $4) ORDER BY epoch `+t.LockRows("chains"), part, outbox, seq, topic)
	if err != nil {
		return fmt.Errorf("looking for what is sent of %s/%d: %w", topic, part, err)
	}
	for _, chain := range chains {
		if _, err := t.Exec(ctx, `UPDATE chains SET sent = $1 WHERE epoch = $2 AND part = $3`,
			seq, chain.Epoch, chain.Part); err != nil {
			return fmt.Errorf("noting what is sent of chain %d/%d: %w", chain.Epoch, chain.Part, err)
		}
		if _, err := t.Exec(ctx, `DELETE FROM outbox WHERE epoch = $1 AND part = $2 AND seq <= $3`, chain.Epoch, chain.Part, seq); err != nil {
			return fmt.Errorf("emptying the outbox of chain %d/%d: %w", chain.Epoch, chain.Part, err)
		}
	}
	return nil
}

// CarryOver brings the events that wait for an incarnation of a topic that is
// gone into the chains of another one, each where partition says that its key
// lies. Those that a stage has applied were in the log that is gone, although
// no one noted it: they are not sent again.
func (t *Tx) CarryOver(ctx context.Context, from Chain, to Topic, partition func(key []byte) int32) error {
	// Two relays at once would carry the same rows twice.
	from, err := t.lockChain(ctx, from.Epoch, from.Part)
	if err != nil {
		return err
	}
	var applied int64
	// A stage that an operator moved, whose stored number is negative, does not count.
	err = t.Get(ctx, &applied, `SELECT COALESCE(MAX(chain_seq), 0) FROM positions
		WHERE topic = $1 AND part = $2 AND chain_outbox = $3 AND chain_seq <= $4`, to.Name, from.Part, from.Timeline, from.Last)
	if err != nil {
		return fmt.Errorf("looking for what was applied of chain %d/%d: %w", from.Epoch, from.Part, err)
	}
	rows, err := t.waiting(ctx, from)
	if err != nil {
		return err
	}
	ended := max(from.Sent, applied)
	if err := t.moveRows(ctx, from, rows, ended, to.Epoch, partition); err != nil {
		return err
	}
	_, err = t.Exec(ctx, `UPDATE chains SET last = $1, sent = $1 WHERE epoch = $2 AND part = $3`, ended, from.Epoch, from.Part)
	if err != nil {
		return fmt.Errorf("closing chain %d/%d: %w", from.Epoch, from.Part, err)
	}
	return nil
}

// moveRows takes all rows of a chain out of the outbox, and puts those behind
// number after back, in their order, as events of another epoch.
func (t *Tx) moveRows(ctx context.Context, from Chain, rows []OutboxRow, after, epoch int64, partition func(key []byte) int32) error {
	if _, err := t.Exec(ctx, `DELETE FROM outbox WHERE epoch = $1 AND part = $2`, from.Epoch, from.Part); err != nil {
		return fmt.Errorf("emptying the outbox of chain %d/%d: %w", from.Epoch, from.Part, err)
	}
	if err := failpoint.Hit(ctx, failpoint.StoreMoving); err != nil {
		return err
	}
	byPart := map[int32][]OutboxRow{}
	for _, row := range rows {
		if row.Seq <= after {
			continue
		}
		row.Epoch, row.Part = epoch, partition(row.Key)
		byPart[row.Part] = append(byPart[row.Part], row)
	}
	var wanted []Numbers
	for part, rows := range byPart {
		wanted = append(wanted, Numbers{Epoch: epoch, Part: part, N: len(rows)})
	}
	if err := t.TakeNumbers(ctx, wanted); err != nil {
		return err
	}
	for _, n := range wanted {
		for i := range byPart[n.Part] {
			byPart[n.Part][i].Seq = n.First() + int64(i)
		}
		if err := t.Append(ctx, byPart[n.Part]); err != nil {
			return err
		}
	}
	return nil
}
