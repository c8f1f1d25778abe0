// Package migrations holds the DDL of the tables that belong to no projection,
// one folder an engine, as goose reads it. The folders hold the same versions,
// and each version means the same.
package migrations

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// SQLite is the DDL for SQLite, in the folder sqlite.
//
//go:embed sqlite/*.sql
var SQLite embed.FS

// Postgres is the DDL for PostgreSQL, in the folder postgres.
//
//go:embed postgres/*.sql
var Postgres embed.FS

// Newest is the version that a database has once all migrations were applied: the number
// that the name of the last one begins with.
func Newest() int64 {
	names, err := fs.Glob(SQLite, "sqlite/*.sql")
	if err != nil || len(names) == 0 {
		panic("there are no migrations")
	}
	number, _, _ := strings.Cut(path.Base(slices.Max(names)), "_")
	newest, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		panic("a migration has no number: " + err.Error())
	}
	return newest
}
