package declared

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Keep keeps the texts of definitions, by version.
func Keep(ctx context.Context, tx *pipeline.Tx, definitions map[string]string) error {
	rows := store.Rows{Table: "provider_definitions", Columns: []string{"version", "definition"}, Clause: "ON CONFLICT (version) DO NOTHING"}
	for _, version := range slices.Sorted(maps.Keys(definitions)) {
		rows.Add(version, definitions[version])
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return fmt.Errorf("keeping the definitions of providers: %w", err)
	}
	return nil
}

// Library compiles the definitions that are kept. Its zero value is ready, and it is safe
// for concurrent use.
type Library struct {
	compiled sync.Map // of *Definition by version
}

// kept is a row of provider_definitions.
type kept struct {
	Version    string `db:"version"`
	Definition string `db:"definition"`
}

// Load returns the definitions of these versions. One that is not kept, or that this
// program cannot read, is a permanent error: the answers become dead letters, and can be
// retried.
func (l *Library) Load(ctx context.Context, q store.Querier, versions map[string]bool) (map[string]*Definition, error) {
	all := make(map[string]*Definition, len(versions))
	var missing []string
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		text := Kept(version)
		if d, ok := l.compiled.Load(text); ok {
			all[version] = d.(*Definition)
		} else if !slices.Contains(missing, text) {
			missing = append(missing, text)
		}
	}
	rows, err := store.SelectIn[kept](ctx, q, `SELECT version, definition FROM provider_definitions WHERE version IN (?)`, missing)
	if err != nil {
		return nil, fmt.Errorf("loading the definitions of providers: %w", err)
	}
	for _, row := range rows {
		d, err := Parse([]byte(row.Definition))
		if err != nil {
			return nil, pipeline.Permanent(fmt.Errorf("definition %s, as it is kept: %w", row.Version, err))
		}
		l.compiled.Store(row.Version, d)
		for version := range versions {
			if Kept(version) == row.Version {
				all[version] = d
			}
		}
	}
	for version := range versions {
		if all[version] == nil {
			return nil, pipeline.Permanent(fmt.Errorf("there is no definition %s in provider_definitions", Kept(version)))
		}
	}
	return all, nil
}

// Kept is the version under which the definition is kept by which an answer is read.
func Kept(version string) string { return strings.TrimSuffix(version, pipeline.HistoryMark) }
