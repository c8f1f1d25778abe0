-- +goose Up

-- raw-store: every answer of every provider, byte for byte. Exactly one of
-- raw_response (valid UTF-8 without NUL) and raw_bytes (anything else) is set.
CREATE TABLE raw_market_data (
    id           BIGINT PRIMARY KEY,
    event_id     TEXT NOT NULL UNIQUE,
    symbol       TEXT NOT NULL,
    provider     TEXT NOT NULL,
    raw_response TEXT,
    raw_bytes    BYTEA,
    timestamp    TIMESTAMPTZ NOT NULL,
    request_id   TEXT NOT NULL
);

-- normalize: the last price of each symbol, to tell a repeat from news. The room
-- on each page lets an update leave the index alone.
CREATE TABLE normalized_quotes (
    quote_key TEXT PRIMARY KEY,
    price     NUMERIC     NOT NULL,
    timestamp TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 70);

-- schedule: when each polling job runs next. symbols is a JSON array.
CREATE TABLE schedules (
    job_id     TEXT PRIMARY KEY,
    symbols    TEXT        NOT NULL,
    interval_s BIGINT      NOT NULL,
    provider   TEXT        NOT NULL,
    next_run   TIMESTAMPTZ NOT NULL
);

CREATE INDEX schedules_due ON schedules (next_run);

-- fetch: requests that have no outcome yet. A claim that is not renewed ends,
-- and another process takes the request over. A row lives about as long as a
-- provider takes to answer and is updated once or twice: VACUUM comes by the
-- number of dead rows, as for the outbox.
CREATE TABLE fetch_queue (
    request_id    TEXT PRIMARY KEY,
    provider      TEXT        NOT NULL,
    symbol        TEXT        NOT NULL,
    requested_at  TIMESTAMPTZ NOT NULL,
    deadline      TIMESTAMPTZ NOT NULL,
    traceparent   TEXT        NOT NULL,
    claimed_by    TEXT        NOT NULL,
    claimed_until BIGINT      NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX fetch_queue_open ON fetch_queue (provider, requested_at);
