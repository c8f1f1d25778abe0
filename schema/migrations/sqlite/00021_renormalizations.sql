-- +goose Up

-- renormalizations: all stored answers of one provider, or of all, read again. state is
-- reading, building, ready, promoted, rolled_back, failed or cancelled. seq orders them.
-- answers is how many were read, and revised, withdrawn and added count the prices that are
-- other ones by now, that the answers do not hold, and that they hold as well. unread counts
-- answers that no provider could read. cut is 1 once the stage normalize continues from what
-- the renormalization has read.
CREATE TABLE renormalizations (
    id          TEXT    NOT NULL PRIMARY KEY,
    seq         INTEGER NOT NULL UNIQUE,
    provider    TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    answers     INTEGER NOT NULL DEFAULT 0,
    revised     INTEGER NOT NULL DEFAULT 0,
    withdrawn   INTEGER NOT NULL DEFAULT 0,
    added       INTEGER NOT NULL DEFAULT 0,
    unread      INTEGER NOT NULL DEFAULT 0,
    cut         INTEGER NOT NULL DEFAULT 0,
    error       TEXT    NOT NULL DEFAULT '',
    created_at  TEXT    NOT NULL,
    changed_at  TEXT    NOT NULL
) WITHOUT ROWID;

-- revised_prices: what a renormalization reads in the place of the event of a price, or of
-- the event that says that a price is unchanged.
-- record_id is the row id of its record, event_id the id of the event. payload is empty
-- where the price is withdrawn. An added price has an event of its own.
CREATE TABLE revised_prices (
    renormalization  TEXT    NOT NULL,
    event_id         TEXT    NOT NULL,
    record_id        INTEGER NOT NULL,
    event_type       TEXT    NOT NULL,
    payload          TEXT    NOT NULL,
    PRIMARY KEY (renormalization, event_id)
) WITHOUT ROWID;
CREATE INDEX revised_prices_by_record ON revised_prices (renormalization, record_id);

-- renormalizations are those that a generation takes, in their order, with commas between.
ALTER TABLE generations ADD COLUMN renormalizations TEXT NOT NULL DEFAULT '';
-- renormalization is the one that a rebuild is a part of; empty for none.
ALTER TABLE rebuilds ADD COLUMN renormalization TEXT NOT NULL DEFAULT '';
