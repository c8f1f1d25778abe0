-- +goose Up

-- The log of an installation without Kafka. Nothing deletes from it but retention.
-- A segment is consecutive records of one partition: numbers first to last. id is
-- made of the topic's epoch, the partition and last, so that an index on it grows at
-- its end; see store.Segment. newest is when its newest record was written, in
-- milliseconds since 1970. body is as codec says, and checksum covers all of it
-- and where it belongs.
CREATE TABLE log_segments (
    id       BIGINT PRIMARY KEY,
    first    BIGINT NOT NULL,
    newest   BIGINT NOT NULL,
    codec    BIGINT NOT NULL,
    checksum BIGINT NOT NULL,
    body     BYTEA   NOT NULL
);

-- How far consumers have come that keep no position of their own.
CREATE TABLE log_groups (
    name        TEXT    NOT NULL,
    epoch       BIGINT NOT NULL,
    part        BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    PRIMARY KEY (name, epoch, part)
);

-- Which log this database belongs to: table, or the id of a Kafka cluster. Empty
-- until a process has worked with it.
ALTER TABLE instance ADD COLUMN log TEXT NOT NULL DEFAULT '';

-- Bodies are compressed already where that pays.
ALTER TABLE log_segments ALTER COLUMN body SET STORAGE EXTERNAL;
