package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/schema"
)

// Letters selects dead letters of the service: one by its ID, or, where ID is 0,
// those of a stage, or of all stages where Stage is "", that are not discarded.
type Letters struct {
	ID    int64
	Stage string
}

// condition is that of the rows, with its three arguments from $1 on.
func (l Letters) condition() (string, []any) {
	if l.ID != 0 {
		return `id = $1 AND substr(stage, 1, $2) <> $3`, []any{l.ID, len(Scratch), Scratch}
	}
	return `(stage = $1 OR $1 = '' AND substr(stage, 1, $2) <> $3) AND discarded_at IS NULL`, []any{l.Stage, len(Scratch), Scratch}
}

// StageLetters counts the dead letters of a stage.
type StageLetters struct {
	Stage   string `db:"stage" json:"stage"`
	Letters int64  `db:"letters" json:"letters"`
	// Retrying is how many of them wait to be retried.
	Retrying int64 `db:"retrying" json:"retrying"`
}

// MostCounted bounds what CountLetters counts: who watches a process asks every
// few seconds, and a plugin that refuses each record makes millions.
const MostCounted = 100_000

// CountLetters counts dead letters by stage, in the order of the stages' names, up
// to MostCounted of them.
func CountLetters(ctx context.Context, q Querier, which Letters) ([]StageLetters, error) {
	condition, args := which.condition()
	var counts []StageLetters
	err := q.Select(ctx, &counts, `SELECT stage, COUNT(*) AS letters, SUM(CASE WHEN retry <> '' THEN 1 ELSE 0 END) AS retrying
		FROM (SELECT stage, retry FROM dead_letters WHERE `+condition+` LIMIT $4) AS chosen GROUP BY stage ORDER BY stage`,
		append(args, MostCounted)...)
	if err != nil {
		return nil, fmt.Errorf("counting dead letters: %w", err)
	}
	return counts, nil
}

// LetterRetry is an order to retry dead letters, and the outcomes so far.
type LetterRetry struct {
	ID string `db:"id" json:"retry_id"`
	// Letters is how many were ordered.
	Letters int64 `db:"letters" json:"letters"`
	// Applied are no dead letters any more: their effects are there. Failed are
	// still some, with the new reason. Refused are still some, as they were: their
	// stage cannot take a record out of the order of the log.
	Applied int64 `db:"applied" json:"applied"`
	Failed  int64 `db:"failed" json:"failed"`
	Refused int64 `db:"refused" json:"refused"`
	// Pending wait for the process that works on their partition.
	Pending int64 `db:"pending" json:"pending"`
	// Withdrawn were discarded meanwhile, or their stage began again.
	Withdrawn int64 `db:"-" json:"withdrawn"`
	// Reason is why the last one failed or was refused.
	Reason    string      `db:"reason" json:"reason"`
	OrderedAt schema.Time `db:"ordered_at" json:"ordered_at"`
}

// ErrRetrying says that the letter already waits to be retried.
var ErrRetrying = errors.New("a retry is under way already")

// ErrNoRetry says that there is no order with an id.
var ErrNoRetry = errors.New("there is no such retry")

const (
	// letterChunk is how many letters one transaction marks: others wait meanwhile.
	letterChunk = 5000
	// retryKept is how long an order can be asked for.
	retryKept = 7 * 24 * time.Hour
)

// OrderRetry has dead letters retried by the processes that run their stages; those
// that wait already are left out. ReadRetry tells the outcome. For one letter it
// returns ErrNoDeadLetter where there is none, and ErrRetrying where it waits.
func (s *Store) OrderRetry(ctx context.Context, which Letters) (LetterRetry, error) {
	random, err := uuid.NewRandom()
	if err != nil {
		return LetterRetry{}, fmt.Errorf("naming a retry: %w", err)
	}
	id := "retry_" + random.String()
	n, err := s.markLetters(ctx, which, `retry = ''`, `retry = $5, discarded_at = NULL`, id, func(tx *Tx, marked int64, first bool) error {
		if first {
			return tx.addRetry(ctx, id, marked, time.Now())
		}
		_, err := tx.Exec(ctx, `UPDATE letter_retries SET letters = letters + $1 WHERE id = $2`, marked, id)
		return err
	})
	if err != nil {
		return LetterRetry{}, fmt.Errorf("ordering a retry: %w", err)
	}
	if n == 0 && which.ID != 0 {
		letter, err := ReadDeadLetter(ctx, s, which.ID)
		switch {
		case err != nil:
		case letter.Retry != "":
			err = fmt.Errorf("dead letter %d: %w", which.ID, ErrRetrying)
		default:
			err = fmt.Errorf("dead letter %d: %w", which.ID, ErrNoDeadLetter)
		}
		return LetterRetry{}, err
	}
	return ReadRetry(ctx, s, id)
}

// addRetry inserts an order, and deletes those that were carried out long ago.
func (t *Tx) addRetry(ctx context.Context, id string, letters int64, now time.Time) error {
	_, err := t.Exec(ctx, `DELETE FROM letter_retries WHERE ordered_at < $1
		AND id NOT IN (SELECT retry FROM dead_letters WHERE retry <> '')`, schema.NewTime(now.Add(-retryKept)))
	if err != nil {
		return err
	}
	_, err = t.Exec(ctx, `INSERT INTO letter_retries (id, letters, applied, failed, refused, reason, ordered_at)
		VALUES ($1, $2, 0, 0, 0, '', $3)`, id, letters, schema.NewTime(now))
	return err
}

// Discard gives dead letters up, and returns how many there were: they are neither
// listed nor retried with others any more. Their rows stay, for they say why the
// records have no effects. What waits to be retried is withdrawn. For one letter it
// returns ErrNoDeadLetter where there is none, or it is discarded already.
func (s *Store) Discard(ctx context.Context, which Letters) (int64, error) {
	n, err := s.markLetters(ctx, which, `discarded_at IS NULL`, `discarded_at = $5, retry = ''`, schema.NewTime(time.Now()),
		func(*Tx, int64, bool) error { return nil })
	if err == nil && n == 0 && which.ID != 0 {
		err = fmt.Errorf("dead letter %d: %w", which.ID, ErrNoDeadLetter)
	}
	if err != nil {
		return n, fmt.Errorf("discarding: %w", err)
	}
	return n, nil
}

// markLetters sets columns, to $5, of the letters selected that also meet a
// condition, in several transactions. Each ends with also, which learns how many it
// marked.
func (s *Store) markLetters(ctx context.Context, which Letters, where, set string, value any,
	also func(tx *Tx, marked int64, first bool) error) (total int64, err error) {
	condition, args := which.condition()
	// Letters that come meanwhile are not meant.
	var last, newest int64
	if err := s.Get(ctx, &newest, `SELECT COALESCE(MAX(id), 0) FROM dead_letters`); err != nil {
		return 0, err
	}
	for first := true; ; first = false {
		var marked []int64
		err := s.Write(ctx, func(tx *Tx) error {
			marked = nil
			// Locked in one order everywhere: two that mark never wait in a circle.
			err := tx.Select(ctx, &marked, `WITH held AS (SELECT id FROM dead_letters WHERE `+condition+` AND `+where+`
				AND id > $4 AND id <= $6 ORDER BY id LIMIT $7 `+tx.LockRows("dead_letters")+`)
				UPDATE dead_letters SET `+set+` WHERE id IN (SELECT id FROM held) RETURNING id`,
				append(args[:3:3], last, value, newest, letterChunk)...)
			if err != nil {
				return err
			}
			return also(tx, int64(len(marked)), first)
		})
		if err != nil {
			return total, err
		}
		total += int64(len(marked))
		if len(marked) < letterChunk {
			return total, nil
		}
		last = slices.Max(marked)
	}
}

// ReadRetry reads an order; ErrNoRetry is wrapped where there is none.
func ReadRetry(ctx context.Context, q Querier, id string) (LetterRetry, error) {
	var r LetterRetry
	err := q.Get(ctx, &r, `SELECT id, letters, applied, failed, refused, reason, ordered_at,
		(SELECT COUNT(*) FROM dead_letters WHERE retry = letter_retries.id AND retry <> '') AS pending FROM letter_retries WHERE id = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoRetry
	}
	if err != nil {
		return r, fmt.Errorf("reading retry %s: %w", id, err)
	}
	r.Withdrawn = r.Letters - r.Applied - r.Failed - r.Refused - r.Pending
	return r, nil
}

// LetterPlace is a partition of a topic.
type LetterPlace struct {
	Topic string `db:"topic"`
	Part  int32  `db:"part"`
}

// StagesToRetry are the stages whose dead letters wait to be retried.
func StagesToRetry(ctx context.Context, q Querier) ([]string, error) {
	var stages []string
	err := q.Select(ctx, &stages, `SELECT DISTINCT stage FROM dead_letters WHERE retry <> '' ORDER BY stage`)
	if err != nil {
		return nil, fmt.Errorf("looking for dead letters to retry: %w", err)
	}
	return stages, nil
}

// PlacesToRetry are the partitions on which dead letters of a stage wait to be
// retried.
func PlacesToRetry(ctx context.Context, q Querier, stage string) ([]LetterPlace, error) {
	var places []LetterPlace
	err := q.Select(ctx, &places, `SELECT DISTINCT topic, part FROM dead_letters WHERE stage = $1 AND retry <> '' ORDER BY topic, part`, stage)
	if err != nil {
		return nil, fmt.Errorf("looking for dead letters of %s to retry: %w", stage, err)
	}
	return places, nil
}

// LettersToRetry reads the first dead letters of a stage that wait to be retried on
// a partition, with all their bytes.
func LettersToRetry(ctx context.Context, q Querier, stage string, at LetterPlace, limit int) ([]DeadLetter, error) {
	var rows []letterRow
	err := q.Select(ctx, &rows, selectLetters+` WHERE stage = $1 AND topic = $2 AND part = $3 AND retry <> '' ORDER BY id LIMIT $4`,
		stage, at.Topic, at.Part, limit)
	if err != nil {
		return nil, fmt.Errorf("reading dead letters of %s to retry: %w", stage, err)
	}
	return lettersOf(rows), nil
}

// HoldRetries returns those of the letters that still wait to be retried as they
// did when they were read. They stay so until the transaction ends.
func (t *Tx) HoldRetries(ctx context.Context, letters []DeadLetter) ([]DeadLetter, error) {
	ids := make([]int64, len(letters))
	for i, l := range letters {
		ids[i] = l.ID
	}
	held, err := SelectIn[DeadLetter](ctx, t, `SELECT id, retry, epoch FROM dead_letters WHERE id IN (?) AND retry <> ''
		ORDER BY id `+t.LockRows("dead_letters"), ids)
	if err != nil {
		return nil, fmt.Errorf("holding dead letters: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(letters), func(l DeadLetter) bool {
		return !slices.ContainsFunc(held, func(h DeadLetter) bool { return h.ID == l.ID && h.Retry == l.Retry && h.Epoch == l.Epoch })
	}), nil
}

// Retried is the outcome of a retry: applied where neither is set.
type Retried struct {
	Letter DeadLetter
	// Failed is why the letter failed again, Refused why it was not tried.
	Failed, Refused string
}

// EndRetries enters outcomes: what was applied is no dead letter any more, what
// failed has a new reason, and the orders count both. It comes last in its
// transaction: many wait for one order.
func (t *Tx) EndRetries(ctx context.Context, outcomes []Retried) error {
	if len(outcomes) == 0 {
		return nil
	}
	var applied, kept []any
	orders := map[string]LetterRetry{}
	for _, o := range outcomes {
		order := orders[o.Letter.Retry]
		switch {
		case o.Failed != "":
			order.Failed++
			order.Reason = o.Failed
			kept = append(kept, o.Letter.ID, o.Failed)
		case o.Refused != "":
			order.Refused++
			order.Reason = o.Refused
			kept = append(kept, o.Letter.ID, o.Letter.Reason)
		default:
			order.Applied++
			applied = append(applied, o.Letter.ID)
		}
		orders[o.Letter.Retry] = order
	}
	if len(applied) > 0 {
		if _, err := t.Exec(ctx, `DELETE FROM dead_letters WHERE id IN (`+placeholders(0, len(applied), ",")+`)`, applied...); err != nil {
			return fmt.Errorf("deleting dead letters that were applied: %w", err)
		}
	}
	if len(kept) > 0 {
		if _, err := t.Exec(ctx, `WITH v (id, reason) AS (`+ValuesList([]string{"BIGINT", "TEXT"}, kept)+`)
			UPDATE dead_letters SET reason = v.reason, retry = '' FROM v WHERE dead_letters.id = v.id`, kept...); err != nil {
			return fmt.Errorf("keeping dead letters that were not applied: %w", err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(orders)) {
		o := orders[id]
		if _, err := t.Exec(ctx, `UPDATE letter_retries SET applied = applied + $1, failed = failed + $2, refused = refused + $3,
			reason = CASE WHEN $4 = '' THEN reason ELSE $4 END WHERE id = $5`, o.Applied, o.Failed, o.Refused, o.Reason, id); err != nil {
			return fmt.Errorf("counting what was retried: %w", err)
		}
	}
	return nil
}
