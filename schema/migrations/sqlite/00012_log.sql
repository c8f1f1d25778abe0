-- +goose Up

-- The log of an installation without Kafka. Nothing deletes from it but retention.
-- A segment is consecutive records of one partition: numbers first to last. id is
-- made of the topic's epoch, the partition and last, so that an index on it grows at
-- its end; see store.Segment. newest is when its newest record was written, in
-- milliseconds since 1970. body is as codec says, and checksum covers all of it
-- and where it belongs.
CREATE TABLE log_segments (
    id       INTEGER PRIMARY KEY,
    first    INTEGER NOT NULL,
    newest   INTEGER NOT NULL,
    codec    INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body     BLOB    NOT NULL
);

-- How far consumers have come that keep no position of their own.
CREATE TABLE log_groups (
    name        TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    part        INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (name, epoch, part)
) WITHOUT ROWID;

-- Which log this database belongs to: table, or the id of a Kafka cluster. Empty
-- until a process has worked with it.
ALTER TABLE instance ADD COLUMN log TEXT NOT NULL DEFAULT '';
