-- +goose Up

-- The definitions of providers that answers were stored under; see
-- handlers/provider/declared. They are never deleted: answers are read by them again.
CREATE TABLE provider_definitions (
    version    TEXT PRIMARY KEY,
    definition TEXT NOT NULL
) WITHOUT ROWID;

-- The version by which the answer is read; empty for providers that are compiled in.
ALTER TABLE raw_market_data ADD COLUMN definition TEXT NOT NULL DEFAULT '';
