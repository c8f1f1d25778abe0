// Package postgres is the engine for PostgreSQL 14 and newer, for more processes
// and more data than one file serves.
//
// It must reach the server itself, or by way of a pooler that keeps a session
// for a connection: limits are set once a session, and migrations hold a lock of
// theirs. A pooler in transaction mode does not do.
package postgres
