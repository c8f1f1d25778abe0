package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/schema"
)

// Position is how far a stage has come on one partition.
type Position struct {
	Stage   string `db:"stage"`
	Topic   string `db:"topic"`
	Part    int32  `db:"part"`
	TopicID string `db:"topic_id"`
	// Next is the offset of the next record to be applied.
	Next int64 `db:"next_offset"`
	// Reached is the last record applied that has a place in the chain, and what may
	// follow; the zero Link where there was none.
	Reached chain.Link `db:"-"`
	// Halted says why the stage stopped here; empty while it continues.
	Halted string `db:"halted"`
	// LogEnded is where the log ended when the stage halted because of that; nil
	// otherwise.
	LogEnded *int64 `db:"log_ended"`
	// Retried counts the transactions that retried dead letters of the partition.
	Retried int64 `db:"retried"`
	// MovedAt is when the position last changed, by the process's clock.
	MovedAt schema.Time `db:"moved_at"`
}

// ErrFenced says that another process moved a position: anyone who sees it must
// not apply what it holds.
var ErrFenced = errors.New("another consumer has moved the position")

const positionColumns = `stage, topic, part, topic_id, next_offset, chain_outbox, chain_seq, halted, log_ended, retried, moved_at`

// Scratch begins the names of stages that a command runs for a purpose of its own,
// and that go again: they are no part of the service.
const Scratch = "scratch/"

// Stages are the names of the stages that have positions, without scratch stages, in their
// order. It reads nothing else of a position, which may be damaged.
func Stages(ctx context.Context, q Querier) ([]string, error) {
	var names []string
	if err := q.Select(ctx, &names, `SELECT DISTINCT stage FROM positions
		WHERE substr(stage, 1, $1) <> $2 ORDER BY stage`, len(Scratch), Scratch); err != nil {
		return nil, fmt.Errorf("reading which stages there are: %w", err)
	}
	return names, nil
}

// storedNumber is the column chain_seq of a position, which says the mode too: n is
// number n, in order; -2n-1 is n, and whatever comes next continues; -2n-2 is n, and
// what follows on its timeline is superseded.
func storedNumber(l chain.Link) int64 {
	switch l.Mode {
	case chain.AnyNext:
		return -2*l.Seq - 1
	case chain.Superseded:
		return -2*l.Seq - 2
	}
	return l.Seq
}

// storedLink is the link of which number is the storedNumber.
func storedLink(timeline string, number int64) chain.Link {
	switch {
	case number >= 0:
		return chain.Link{Timeline: timeline, Seq: number}
	case -number%2 == 1:
		return chain.Link{Timeline: timeline, Seq: (-number - 1) / 2, Mode: chain.AnyNext}
	}
	return chain.Link{Timeline: timeline, Seq: (-number - 2) / 2, Mode: chain.Superseded}
}

// selectPositions reads positions with all their columns.
func selectPositions(ctx context.Context, q Querier, query string, args ...any) ([]Position, error) {
	var rows []struct {
		Position
		Timeline string `db:"chain_outbox"`
		Number   int64  `db:"chain_seq"`
	}
	if err := q.Select(ctx, &rows, query, args...); err != nil {
		return nil, err
	}
	positions := make([]Position, len(rows))
	for i, row := range rows {
		positions[i] = row.Position
		positions[i].Reached = storedLink(row.Timeline, row.Number)
	}
	return positions, nil
}

// AllPositions reads the positions of all stages, by stage: those that only a command
// runs are among them.
func AllPositions(ctx context.Context, q Querier) (map[string][]Position, error) {
	all, err := selectPositions(ctx, q, `SELECT `+positionColumns+` FROM positions`)
	if err != nil {
		return nil, fmt.Errorf("reading positions: %w", err)
	}
	byStage := map[string][]Position{}
	for _, p := range all {
		byStage[p.Stage] = append(byStage[p.Stage], p)
	}
	return byStage, nil
}

// Positions reads the positions of a stage, or of all stages of the service where
// it is "".
func Positions(ctx context.Context, q Querier, stage string) ([]Position, error) {
	positions, err := selectPositions(ctx, q, `SELECT `+positionColumns+` FROM positions
		WHERE $1 = '' AND substr(stage, 1, $2) <> $3 OR stage = $1 ORDER BY stage, topic, part`, stage, len(Scratch), Scratch)
	if err != nil {
		return nil, fmt.Errorf("reading positions: %w", err)
	}
	return positions, nil
}

// CreatePositions inserts positions that do not exist yet and leaves the others
// as they are.
func (t *Tx) CreatePositions(ctx context.Context, positions []Position) error {
	// In one order everywhere: a row that another transaction is inserting is
	// waited for, and two of them must not wait in a circle.
	positions = slices.SortedFunc(slices.Values(positions), func(a, b Position) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Part, b.Part))
	})
	rows := Rows{Table: "positions", Columns: strings.Split(positionColumns, ", "),
		Clause: "ON CONFLICT (stage, topic, part) DO NOTHING"}
	for _, p := range positions {
		rows.Add(p.Stage, p.Topic, p.Part, p.TopicID, p.Next, p.Reached.Timeline, storedNumber(p.Reached), p.Halted, p.LogEnded, p.Retried, p.MovedAt)
	}
	return t.Insert(ctx, rows)
}

// ClaimPositions notes that a consumer has come for partitions of a stage, where
// that was not known: then no one's rows are touched.
func (t *Tx) ClaimPositions(ctx context.Context, at schema.Time, claimed []Position) error {
	for _, p := range claimed {
		var unknown int
		err := t.Get(ctx, &unknown, `SELECT COUNT(*) FROM positions WHERE stage = $1 AND topic = $2 AND part = $3 AND claimed_at IS NULL`, p.Stage, p.Topic, p.Part)
		if err == nil && unknown > 0 {
			_, err = t.Exec(ctx, `UPDATE positions SET claimed_at = $1 WHERE stage = $2 AND topic = $3 AND part = $4`, at, p.Stage, p.Topic, p.Part)
		}
		if err != nil {
			return fmt.Errorf("claiming %s on %s/%d: %w", p.Stage, p.Topic, p.Part, err)
		}
	}
	return nil
}

// Unclaimed is how many partitions of a stage no consumer has come for yet.
func Unclaimed(ctx context.Context, q Querier, stage string) (int, error) {
	var n int
	err := q.Get(ctx, &n, `SELECT COUNT(*) FROM positions WHERE stage = $1 AND claimed_at IS NULL`, stage)
	if err != nil {
		return 0, fmt.Errorf("looking whether someone feeds %s: %w", stage, err)
	}
	return n, nil
}

// Move is one step of a position.
type Move struct {
	From Position
	// Next and Reached are as in Position, after the step.
	Next    int64
	Reached chain.Link
	// Epoch is that of the topic where it is not known whether the database has given
	// Reached: unless its chain has, the position does not move. 0 where it is known.
	Epoch int64
	// Halted stops the stage there.
	Halted string
}

// MovePositions moves all positions at once, each only if it still stands where
// From says, is not halted, no dead letter was retried there since, and the database has
// given what was reached; otherwise ErrFenced, and the transaction must be rolled back.
// The rows stay locked until its end, so two consumers of one partition cannot both
// commit.
//
// Engines that lock row by row do so in the order of the key before anything is
// moved. The UPDATE alone locks in whatever order its plan meets the rows: a
// consumer that lost its partitions and does not know it yet, and the one that
// has them now, would each hold a row that the other one waits for.
func (t *Tx) MovePositions(ctx context.Context, at schema.Time, moves []Move) error {
	if len(moves) == 0 {
		return nil
	}
	var args []any
	for _, m := range moves {
		args = append(args, m.From.Stage, m.From.Topic, m.From.Part, m.From.TopicID,
			m.From.Next, m.From.Retried, m.Next, m.Reached.Timeline, storedNumber(m.Reached), m.Halted, m.Epoch, m.Reached.Seq)
	}
	table, args, err := t.store.engine.Values(moveColumns, args)
	if err != nil {
		return fmt.Errorf("moving %d positions: %w", len(moves), err)
	}
	moved, err := t.Exec(ctx, `WITH v (stage, topic, part, topic_id, expected, retried, next, outbox, seq, halted, epoch, given) AS (`+table+`),
		held AS (SELECT v.* FROM positions JOIN v
			ON positions.stage = v.stage AND positions.topic = v.topic AND positions.part = v.part
			ORDER BY v.stage, v.topic, v.part `+t.store.engine.LockRows("positions")+`)
		UPDATE positions SET next_offset = held.next, chain_outbox = held.outbox, chain_seq = held.seq,
			halted = held.halted, moved_at = $`+strconv.Itoa(len(args)+1)+`
		FROM held WHERE positions.stage = held.stage AND positions.topic = held.topic AND positions.part = held.part
			AND positions.topic_id = held.topic_id AND positions.next_offset = held.expected
			AND positions.retried = held.retried AND positions.halted = ''
			AND (held.epoch = 0 OR EXISTS (SELECT 1 FROM chains WHERE chains.epoch = held.epoch AND chains.part = held.part
				AND chains.outbox = held.outbox AND chains.last >= held.given))`, append(args, at)...)
	if err != nil {
		return fmt.Errorf("moving %d positions: %w", len(moves), err)
	}
	if moved != int64(len(moves)) {
		return fmt.Errorf("moving %d positions of %s, %d stood where they were expected: %w",
			len(moves), moves[0].From.Stage, moved, ErrFenced)
	}
	return nil
}

var moveColumns = []string{"TEXT", "TEXT", "BIGINT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "TEXT", "BIGINT", "TEXT", "BIGINT", "BIGINT"}

// FenceRetry holds the position of a stage on a partition for a transaction that
// retries dead letters there, and has every consumer fenced off that read the
// position before: what it remembers lacks what the transaction does. It returns
// what Position.Retried is then; ErrFenced where there is no such position.
func (t *Tx) FenceRetry(ctx context.Context, stage, topic string, part int32) (retried int64, err error) {
	err = t.Get(ctx, &retried, `UPDATE positions SET retried = retried + 1 WHERE stage = $1 AND topic = $2 AND part = $3
		RETURNING retried`, stage, topic, part)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrFenced
	}
	if err != nil {
		return 0, fmt.Errorf("holding the position of %s on %s/%d: %w", stage, topic, part, err)
	}
	return retried, nil
}

// HaltPosition stops a stage at a position before it has applied anything there,
// for instance because the log is not the one it knew; p says why. A position that
// has moved since is left alone.
func (t *Tx) HaltPosition(ctx context.Context, p Position) error {
	_, err := t.Exec(ctx, `UPDATE positions SET halted = $1, log_ended = $2
		WHERE stage = $3 AND topic = $4 AND part = $5 AND next_offset = $6 AND halted = ''`,
		p.Halted, p.LogEnded, p.Stage, p.Topic, p.Part, p.Next)
	if err != nil {
		return fmt.Errorf("halting %s on %s/%d: %w", p.Stage, p.Topic, p.Part, err)
	}
	return nil
}

// LockPositions reads the positions of a stage; no one moves them until the
// transaction ends.
func (t *Tx) LockPositions(ctx context.Context, stage string) ([]Position, error) {
	positions, err := selectPositions(ctx, t, `SELECT `+positionColumns+` FROM positions WHERE stage = $1
		ORDER BY stage, topic, part `+t.LockRows("positions"), stage)
	if err != nil {
		return nil, fmt.Errorf("locking the positions of %s: %w", stage, err)
	}
	return positions, nil
}

// ErrMoved says that a position no longer stands where the caller saw it.
var ErrMoved = errors.New("the position has moved meanwhile")

// SetPosition puts a position elsewhere, halted or not, on an operator's word: it
// must still be what the operator saw. ErrMoved otherwise.
func (t *Tx) SetPosition(ctx context.Context, from, to Position) error {
	changed, err := t.Exec(ctx, `UPDATE positions SET topic_id = $1, next_offset = $2, chain_outbox = $3, chain_seq = $4,
			halted = $5, log_ended = $6, moved_at = $7
		WHERE stage = $8 AND topic = $9 AND part = $10 AND topic_id = $11 AND next_offset = $12 AND halted = $13`,
		to.TopicID, to.Next, to.Reached.Timeline, storedNumber(to.Reached), to.Halted, to.LogEnded, to.MovedAt,
		from.Stage, from.Topic, from.Part, from.TopicID, from.Next, from.Halted)
	if err != nil {
		return fmt.Errorf("moving %s on %s/%d: %w", from.Stage, from.Topic, from.Part, err)
	}
	if changed != 1 {
		return fmt.Errorf("moving %s on %s/%d from offset %d: %w", from.Stage, from.Topic, from.Part, from.Next, ErrMoved)
	}
	return nil
}
