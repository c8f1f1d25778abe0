package deletion

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// deleted is what a deletion has deleted so far, as it is recorded.
type deleted struct {
	Records  map[schema.Topic]int64 `json:"records"`
	Rows     map[string]int64       `json:"rows"`
	Cleared  map[string]int64       `json:"cleared"`
	Emptied  map[string]int64       `json:"emptied"`
	Refilled []string               `json:"refilled"`
	Left     []Left                 `json:"left"`
	// Jobs are the polling jobs that asked for the data.
	Jobs []string `json:"jobs"`
	// At is when the records were deleted, as the log says.
	At schema.Time `json:"at,omitzero"`
	// Cluster is the id of the Kafka cluster that has the log, and Topics are those of its topics
	// that are written again. Rewritten says so of the plan.
	Cluster   string                      `json:"cluster,omitempty"`
	Topics    map[schema.Topic]*rewriting `json:"topics,omitempty"`
	Rewritten []Rewritten                 `json:"rewritten,omitempty"`
}

// Finished reports whether a recorded deletion is.
func Finished(d store.DeletionRecord) bool { return d.FinishedAt != nil }

// Ends are where the log ended when a recorded deletion began, by topic, for each partition:
// what was before holds none of the data.
func Ends(d store.DeletionRecord) (map[schema.Topic][]int64, error) {
	var ends map[schema.Topic][]int64
	if err := json.Unmarshal([]byte(d.Ends), &ends); err != nil {
		return nil, fmt.Errorf("reading deletion %s: %w", d.ID, err)
	}
	return ends, nil
}

// Summary is how much a recorded deletion has deleted: records of the log by topic, and rows of
// tables.
func Summary(d store.DeletionRecord) (records map[schema.Topic]int64, rows int64, err error) {
	var counted deleted
	if err := json.Unmarshal([]byte(d.Deleted), &counted); err != nil {
		return nil, 0, fmt.Errorf("reading deletion %s: %w", d.ID, err)
	}
	return counted.Records, sum(counted.Rows), nil
}

func sum[K comparable](counts map[K]int64) (n int64) {
	for _, count := range counts {
		n += count
	}
	return n
}

// Interrupted is the deletion that is not finished; false where there is none.
func Interrupted(ctx context.Context, q store.Querier) (store.DeletionRecord, bool, error) {
	all, err := store.Deletions(ctx, q)
	if err != nil {
		return store.DeletionRecord{}, false, err
	}
	for _, d := range all {
		if !Finished(d) {
			return d, true, nil
		}
	}
	return store.DeletionRecord{}, false, nil
}
