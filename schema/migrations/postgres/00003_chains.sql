-- +goose Up

-- A chain has a name of its own, which its records carry: numbers are only ever
-- compared within one name. Where a database was restored, or a topic created
-- again, the numbers begin anew under another name.
ALTER TABLE chains ADD COLUMN outbox TEXT NOT NULL DEFAULT '';

-- Names that a chain had before, in their order. sent is the last number in the
-- log; those behind it, up to given, went on under the next name. A record of a
-- higher number was written by a state of the database that is no more.
CREATE TABLE retired_chains (
    epoch   BIGINT NOT NULL,
    part    BIGINT NOT NULL,
    ordinal BIGINT NOT NULL,
    outbox  TEXT   NOT NULL,
    sent    BIGINT NOT NULL,
    given   BIGINT NOT NULL,
    PRIMARY KEY (epoch, part, ordinal)
);

-- Where a stage goes on that halted because the log lost its end: once the log has
-- grown again, nothing else would tell.
ALTER TABLE positions ADD COLUMN log_ended BIGINT;

-- The engine's identity when the chains were named; see store.Engine.
ALTER TABLE instance ADD COLUMN server TEXT NOT NULL DEFAULT '';

-- One topic may have several epochs: where its log lost its end, offsets are
-- given out a second time. partitions is what keys are spread over, for ever;
-- seen is how many there are, the last time an operator agreed to it.
ALTER TABLE topics DROP CONSTRAINT topics_topic_id_key;
ALTER TABLE topics ADD COLUMN seen BIGINT;
UPDATE topics SET seen = partitions;
ALTER TABLE topics ALTER COLUMN seen SET NOT NULL;
