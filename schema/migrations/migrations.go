// Package migrations holds the DDL of the tables that belong to no projection,
// one folder an engine, as goose reads it. The folders hold the same versions,
// and each version means the same.
package migrations

import "embed"

// SQLite is the DDL for SQLite, in the folder sqlite.
//
//go:embed sqlite/*.sql
var SQLite embed.FS

// Postgres is the DDL for PostgreSQL, in the folder postgres.
//
//go:embed postgres/*.sql
var Postgres embed.FS
