package projections

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Reached is how far the generations that readers see have folded a topic: by the name of
// the projection and the partition, the offset of the next record. A partition of which
// nothing was folded is absent. Asked in a snapshot, it is true of the rows that are read
// in the same one.
func Reached(ctx context.Context, q store.Querier, names []string, topic schema.Topic) (map[string]map[int32]int64, error) {
	rows, err := store.SelectIn[struct {
		Projection string `db:"projection"`
		Part       int32  `db:"part"`
		Next       int64  `db:"next_offset"`
	}](ctx, q, `SELECT g.projection, p.part, p.next_offset FROM generations g
		JOIN positions p ON p.stage = g.projection || '.g' || g.number -- see stageName
		WHERE g.active = 1 AND p.topic = $1 AND g.projection IN (?)
		AND p.topic_id = (SELECT topic_id FROM topics WHERE name = $1 ORDER BY epoch DESC LIMIT 1)`, names, topic)
	if err != nil {
		return nil, QueryError(fmt.Sprintf("how far %q are", names), err)
	}
	reached := map[string]map[int32]int64{}
	for _, row := range rows {
		if reached[row.Projection] == nil {
			reached[row.Projection] = map[int32]int64{}
		}
		reached[row.Projection][row.Part] = row.Next
	}
	return reached, nil
}
