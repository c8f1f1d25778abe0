package move

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Plan says what Run would move, and how it would begin, and changes nothing. The target
// may have no tables yet.
func Plan(ctx context.Context, cfg Config) (Result, error) {
	m, err := newMover(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	defer m.close()
	m.result.Start = Began
	recorded := map[string]string{}
	there, err := m.tablesOfTarget(ctx)
	if err != nil {
		return Result{}, err
	}
	if slices.Contains(there, "moves") {
		if done, err := m.finishedBefore(ctx); done || err != nil {
			return m.result, err
		}
		if m.result.Start, err = m.start(ctx); err != nil {
			return Result{}, err
		}
		if recorded, err = m.recordedTopics(ctx); err != nil {
			return Result{}, err
		}
	}
	if err := m.planTopics(ctx, recorded); err != nil {
		return Result{}, err
	}
	return m.result, m.planTables(ctx)
}

// planTopics refuses topics that would be in the way.
func (m *mover) planTopics(ctx context.Context, recorded map[string]string) error {
	m.countTopics()
	if m.Cluster == nil {
		return nil
	}
	for _, topic := range m.topics {
		cluster, err := m.Cluster(ctx, topic.Partitions)
		if err != nil {
			return err
		}
		if _, _, err := m.lookUp(ctx, clusterTopic{topic, schema.Topic(topic.Name), cluster}, recorded[topic.Name]); err != nil {
			return err
		}
	}
	return nil
}

// planTables counts the rows of the tables that would come along, before rows are chosen.
func (m *mover) planTables(ctx context.Context) error {
	all, err := m.source.Tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range all {
		if t, ours := treatmentOf(table); table == versionTable || ours && !m.moves(t) || m.Choice.Spare(table) {
			continue
		}
		rows, err := count(ctx, m.source, table)
		if err != nil {
			return err
		}
		m.result.Tables = append(m.result.Tables, TableCount{table, rows})
	}
	return nil
}

// countAll counts what is in the target and what stays.
func (m *mover) countAll(ctx context.Context) error {
	moved, err := m.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range moved {
		rows, err := count(ctx, m.Target, table)
		if err != nil {
			return err
		}
		m.result.Tables = append(m.result.Tables, TableCount{table, rows})
	}
	m.countTopics()
	m.result.Left, err = m.left(ctx, moved)
	return err
}

// count counts the rows of a table.
func count(ctx context.Context, q store.Querier, table string) (int64, error) {
	var n int64
	if err := q.Get(ctx, &n, "SELECT COUNT(*) FROM "+table); err != nil {
		return 0, fmt.Errorf("counting the rows of %s: %w", table, err)
	}
	return n, nil
}

// left are the tables of the source with rows that do not come along.
func (m *mover) left(ctx context.Context, moved []string) ([]LeftTable, error) {
	all, err := m.source.Tables(ctx)
	if err != nil {
		return nil, err
	}
	left := []LeftTable{}
	for _, table := range all {
		t, ours := treatmentOf(table)
		if table == versionTable || ours && (t.Kind == Fresh || t.Kind == Empty || t.Table == "log_segments") {
			continue
		}
		why := "no module that is switched on has such a table"
		switch {
		case ours:
			why = t.Why
		case m.Choice.Spare(table):
			why = "its generation does not serve, and can be rebuilt"
		}
		rows, err := count(ctx, m.source, table)
		if err != nil {
			return nil, err
		}
		if slices.Contains(moved, table) {
			there, err := count(ctx, m.Target, table)
			if err != nil {
				return nil, err
			}
			if t.Kind != Chosen {
				continue
			}
			rows -= there
		}
		if rows > 0 {
			left = append(left, LeftTable{table, rows, why})
		}
	}
	return left, nil
}
