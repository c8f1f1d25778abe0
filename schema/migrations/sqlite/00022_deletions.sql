-- +goose Up

-- The data of providers that were deleted: of symbol, or all of provider where it is empty.
-- state is how far the deletion is: see pipeline/deletion. ends are where the log ended when
-- it began, by topic, for each partition: JSON. deleted counts rows by table and records by
-- topic: JSON.
CREATE TABLE deletions (
    deletion_id  TEXT PRIMARY KEY,
    provider     TEXT NOT NULL,
    symbol       TEXT NOT NULL,
    reason       TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    state        TEXT NOT NULL,
    ends         TEXT NOT NULL,
    deleted      TEXT NOT NULL,
    began_at     TEXT NOT NULL,
    finished_at  TEXT
) WITHOUT ROWID;
