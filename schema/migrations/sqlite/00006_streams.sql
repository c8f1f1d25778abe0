-- +goose Up

-- stream: what providers are asked to send by themselves. symbols is a JSON
-- array; status is active, failing or stopped, and a stopped stream stays, so
-- that nothing enters it again. One process streams it: a claim that is not
-- renewed ends, and another takes over. sequences is a JSON object: by symbol,
-- the number of the last message in the log, from which gaps are told.
CREATE TABLE streams (
    stream_id       TEXT    PRIMARY KEY,
    provider        TEXT    NOT NULL,
    symbols         TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    started_at      TEXT    NOT NULL,
    stopped_at      TEXT,
    claimed_by      TEXT    NOT NULL DEFAULT '',
    claimed_until   INTEGER NOT NULL DEFAULT 0,
    last_message_at TEXT,
    messages        INTEGER NOT NULL DEFAULT 0,
    gaps            INTEGER NOT NULL DEFAULT 0,
    missed          INTEGER NOT NULL DEFAULT 0,
    reconnects      INTEGER NOT NULL DEFAULT 0,
    sequences       TEXT    NOT NULL DEFAULT '{}',
    last_error      TEXT    NOT NULL DEFAULT '',
    last_error_at   TEXT
) WITHOUT ROWID;

CREATE INDEX streams_started ON streams (started_at, stream_id);
