-- +goose Up

-- epoch is that of the record's topic, from which ids follow; 0 for letters from
-- before it was written down. retry is the order by which the letter waits to be
-- retried, empty where there is none. discarded_at is when an operator gave the
-- record up: the letter stays, hidden, as the reason why the record has no effects.
ALTER TABLE dead_letters ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN retry TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN discarded_at TIMESTAMPTZ;
CREATE INDEX dead_letters_open ON dead_letters (stage) WHERE discarded_at IS NULL;
CREATE INDEX dead_letters_to_retry ON dead_letters (stage, topic, part, id) WHERE retry <> '';
CREATE INDEX dead_letters_by_retry ON dead_letters (retry) WHERE retry <> '';

-- retried counts the retries on a partition. Each moves the position by it, so that
-- a consumer that remembers what was before is fenced off.
ALTER TABLE positions ADD COLUMN retried BIGINT NOT NULL DEFAULT 0;

-- The orders to retry dead letters, with the outcomes so far. reason is that of the
-- last letter that stayed.
CREATE TABLE letter_retries (
    id         TEXT    NOT NULL PRIMARY KEY,
    letters    BIGINT NOT NULL,
    applied    BIGINT NOT NULL,
    failed     BIGINT NOT NULL,
    refused    BIGINT NOT NULL,
    reason     TEXT    NOT NULL,
    ordered_at TIMESTAMPTZ NOT NULL
);
