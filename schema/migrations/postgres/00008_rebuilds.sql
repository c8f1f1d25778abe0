-- +goose Up

-- following is 1 for a generation whose stage runs: the active one, those that it
-- replaced, and those that may replace it. One that is being filled is 0.
ALTER TABLE generations ADD COLUMN following BIGINT NOT NULL DEFAULT 1;
-- tables are the plain names of its tables, with commas between them; empty where
-- they are those that the fold has now.
ALTER TABLE generations ADD COLUMN tables TEXT NOT NULL DEFAULT '';
UPDATE generations SET following = 0 WHERE scratch = 1;

-- claimed_at is when a consumer first came for the partition; NULL before.
ALTER TABLE positions ADD COLUMN claimed_at TIMESTAMPTZ;

-- The builds of generations from the log. number is that of the generation, and
-- replaced that of the one whose place it took, 0 for none. goals are where the log
-- ended on each partition when it began, and proof is what the comparison with the
-- active generation found: JSON, empty until then. equal is 1 where that was no
-- difference, and whole where the log holds all that the tables are made of.
-- speeds are those of late on each partition, in records a second: JSON.
CREATE TABLE rebuilds (
    id           TEXT NOT NULL PRIMARY KEY,
    projection   TEXT NOT NULL,
    number       BIGINT NOT NULL,
    fold         TEXT NOT NULL,
    state        TEXT NOT NULL,
    promote      TEXT NOT NULL,
    skip_poison  BIGINT NOT NULL,
    rate_limit   BIGINT NOT NULL,
    replaced     BIGINT NOT NULL DEFAULT 0,
    goals        TEXT NOT NULL DEFAULT '',
    speeds       TEXT NOT NULL DEFAULT '',
    proof        TEXT NOT NULL DEFAULT '',
    equal        BIGINT NOT NULL DEFAULT 0,
    whole        BIGINT NOT NULL DEFAULT 0,
    error        TEXT NOT NULL DEFAULT '',
    created_at   TIMESTAMPTZ NOT NULL,
    changed_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX rebuilds_by_projection ON rebuilds (projection, number);
