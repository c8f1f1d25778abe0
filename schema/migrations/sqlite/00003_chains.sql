-- +goose Up

-- A chain has a name of its own, which its records carry: numbers are only ever
-- compared within one name. Where a database was restored, or a topic created
-- again, the numbers begin anew under another name.
ALTER TABLE chains ADD COLUMN outbox TEXT NOT NULL DEFAULT '';

-- Names that a chain had before, in their order. sent is the last number in the
-- log; those behind it, up to given, went on under the next name. A record of a
-- higher number was written by a state of the database that is no more.
CREATE TABLE retired_chains (
    epoch   INTEGER NOT NULL,
    part    INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    outbox  TEXT    NOT NULL,
    sent    INTEGER NOT NULL,
    given   INTEGER NOT NULL,
    PRIMARY KEY (epoch, part, ordinal)
) WITHOUT ROWID;

-- Where a stage goes on that halted because the log lost its end: once the log has
-- grown again, nothing else would tell.
ALTER TABLE positions ADD COLUMN log_ended INTEGER;

-- The engine's identity when the chains were named; see store.Engine.
ALTER TABLE instance ADD COLUMN server TEXT NOT NULL DEFAULT '';

-- One topic may have several epochs: where its log lost its end, offsets are
-- given out a second time. partitions is what keys are spread over, for ever;
-- seen is how many there are, the last time an operator agreed to it.
CREATE TABLE topics_new (
    epoch      INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    topic_id   TEXT    NOT NULL,
    partitions INTEGER NOT NULL,
    seen       INTEGER NOT NULL
);
INSERT INTO topics_new SELECT epoch, name, topic_id, partitions, partitions FROM topics;
DROP TABLE topics;
ALTER TABLE topics_new RENAME TO topics;
