package deletion

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
)

// tables deletes rows, as the log tells which ones: it is changed afterwards.
func (d *deleting) tables(ctx context.Context) error {
	rows, err := d.rowsOf(ctx, d.counted.Jobs, d.counted.Refilled)
	if err != nil {
		return err
	}
	if err := d.deleteLetters(ctx); err != nil {
		return err
	}
	if err := d.deleteRevisions(ctx); err != nil {
		return err
	}
	if err := d.change(ctx, "clearing streams", d.clearStreams(ctx)); err != nil {
		return err
	}
	for _, r := range rows.rules {
		if err := d.change(ctx, "deleting from "+r.table, func(tx *store.Tx, counted *deleted) error {
			n, err := r.apply(ctx, tx)
			r.countIn(counted.Rows, counted.Cleared, counted.Emptied, n)
			return err
		}); err != nil {
			return err
		}
	}
	for _, g := range rows.refilled {
		if err := d.change(ctx, "starting over with "+g.stages()[0], func(tx *store.Tx, _ *deleted) error { return startOver(ctx, tx, g) }); err != nil {
			return err
		}
	}
	return d.enter(ctx, stateLog)
}

func (d *deleting) deleteLetters(ctx context.Context) error {
	letters, err := d.letters(ctx)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(letters, 500) {
		if err := d.change(ctx, "deleting dead letters", func(tx *store.Tx, counted *deleted) error {
			for _, id := range chunk {
				n, err := tx.Exec(ctx, `DELETE FROM dead_letters WHERE id = $1`, id)
				if err != nil {
					return fmt.Errorf("deleting dead letters: %w", err)
				}
				countIn(counted.Rows, "dead_letters", n)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *deleting) deleteRevisions(ctx context.Context) error {
	revisions, err := d.revisions(ctx)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(revisions, 500) {
		if err := d.change(ctx, "deleting revised prices", func(tx *store.Tx, counted *deleted) error {
			for _, r := range chunk {
				n, err := tx.Exec(ctx, `DELETE FROM revised_prices WHERE renormalization = $1 AND event_id = $2`, r.Renormalization, r.EventID)
				if err != nil {
					return fmt.Errorf("deleting revised prices: %w", err)
				}
				countIn(counted.Rows, "revised_prices", n)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *deleting) clearStreams(ctx context.Context) func(tx *store.Tx, counted *deleted) error {
	return func(tx *store.Tx, counted *deleted) error {
		streams, err := d.streams(ctx, tx)
		if err != nil {
			return err
		}
		for _, s := range streams {
			_, err := tx.Exec(ctx, `UPDATE streams SET sequences = $1, holes = $2, last_error = $3 WHERE stream_id = $4`, s.Sequences, s.Holes, s.LastError, s.ID)
			if err != nil {
				return fmt.Errorf("clearing stream %s: %w", s.ID, err)
			}
			countIn(counted.Cleared, "streams", 1)
		}
		return nil
	}
}
