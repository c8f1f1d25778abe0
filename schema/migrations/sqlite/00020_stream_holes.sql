-- +goose Up

-- holes is a JSON object: by symbol, the span of time in which messages of a stream were
-- missing, until a backfill of that span has been started.
ALTER TABLE streams ADD COLUMN holes TEXT NOT NULL DEFAULT '{}';
