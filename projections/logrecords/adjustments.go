package logrecords

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/schema"
)

// placeAdjustments puts splits and dividends, and their retractions, where they were. The tables
// of a database that an earlier version has served do not have them.
func (l *Layout) placeAdjustments(ctx context.Context) error {
	var serving []int
	if err := l.View.Select(ctx, &serving, `SELECT number FROM generations WHERE projection = $1 AND active = 1`, adjustments.Name); err != nil {
		return fmt.Errorf("looking for adjustments: %w", err)
	}
	if len(serving) == 0 {
		return nil
	}
	for after := int64(-1); ; {
		rows, err := adjustments.Said(ctx, l.View, after, answerPage)
		if err != nil {
			return err
		}
		for _, row := range rows {
			after = row.ID
			part, offset, ok := l.place(schema.PollingJobs, row.ID)
			if !ok {
				continue
			}
			slot, err := l.literal(schema.Event{ID: row.EventID, Source: l.Commands, Payload: row.Payload}, row.Payload.OccurredAt(), refill.Linked)
			if err != nil {
				return err
			}
			slot.Offset = offset
			l.at(schema.PollingJobs, part).Put(slot)
		}
		if len(rows) < answerPage {
			return nil
		}
	}
}
