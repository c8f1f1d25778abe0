-- +goose Up

-- backfill: the spans of the past that providers are asked for. status is active, failing,
-- completed, failed or stopped; the last three are final, and such a row stays, so that nothing
-- enters it again. One process works on a row: a claim that is not renewed ends, and another
-- takes over. It continues from next_page, the cursor that was stored once everything before it
-- was in the log. last_id is the id of the last event that was appended.
CREATE TABLE backfills (
    backfill_id     TEXT    PRIMARY KEY,
    provider        TEXT    NOT NULL,
    symbol          TEXT    NOT NULL,
    from_time       TEXT    NOT NULL,
    to_time         TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    started_at      TEXT    NOT NULL,
    ended_at        TEXT,
    claimed_by      TEXT    NOT NULL DEFAULT '',
    claimed_until   INTEGER NOT NULL DEFAULT 0,
    next_page       TEXT    NOT NULL DEFAULT '',
    calls           INTEGER NOT NULL DEFAULT 0,
    prices          INTEGER NOT NULL DEFAULT 0,
    repeated        INTEGER NOT NULL DEFAULT 0,
    reached_at      TEXT,
    last_id         TEXT    NOT NULL DEFAULT '',
    last_error      TEXT    NOT NULL DEFAULT '',
    last_error_at   TEXT
) WITHOUT ROWID;

CREATE INDEX backfills_started ON backfills (started_at, backfill_id);
