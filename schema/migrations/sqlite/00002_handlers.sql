-- +goose Up

-- raw-store: every answer of every provider, byte for byte. Exactly one of
-- raw_response (valid UTF-8 without NUL) and raw_bytes (anything else) is set.
CREATE TABLE raw_market_data (
    id           INTEGER PRIMARY KEY,
    event_id     TEXT NOT NULL UNIQUE,
    symbol       TEXT NOT NULL,
    provider     TEXT NOT NULL,
    raw_response TEXT,
    raw_bytes    BLOB,
    timestamp    TEXT NOT NULL,
    request_id   TEXT NOT NULL
);

-- normalize: the last price of each symbol, to tell a repeat from news.
CREATE TABLE normalized_quotes (
    quote_key TEXT PRIMARY KEY,
    price     TEXT NOT NULL,
    timestamp TEXT NOT NULL
) WITHOUT ROWID;

-- schedule: when each polling job runs next. symbols is a JSON array.
CREATE TABLE schedules (
    job_id     TEXT PRIMARY KEY,
    symbols    TEXT    NOT NULL,
    interval_s INTEGER NOT NULL,
    provider   TEXT    NOT NULL,
    next_run   TEXT    NOT NULL
) WITHOUT ROWID;

CREATE INDEX schedules_due ON schedules (next_run);

-- fetch: requests that have no outcome yet. A claim that is not renewed ends,
-- and another process takes the request over.
CREATE TABLE fetch_queue (
    request_id    TEXT PRIMARY KEY,
    provider      TEXT    NOT NULL,
    symbol        TEXT    NOT NULL,
    requested_at  TEXT    NOT NULL,
    deadline      TEXT    NOT NULL,
    traceparent   TEXT    NOT NULL,
    claimed_by    TEXT    NOT NULL,
    claimed_until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX fetch_queue_open ON fetch_queue (provider, requested_at);
