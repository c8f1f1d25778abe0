-- +goose Up

-- stream: what providers are asked to send by themselves. symbols is a JSON
-- array; status is active, failing or stopped, and a stopped stream stays, so
-- that nothing enters it again. One process streams it: a claim that is not
-- renewed ends, and another takes over. sequences is a JSON object: by symbol,
-- the number of the last message in the log, from which gaps are told. A row
-- is updated every second while it is streamed: VACUUM comes by the number of
-- dead rows, as for the outbox.
CREATE TABLE streams (
    stream_id       TEXT        PRIMARY KEY,
    provider        TEXT        NOT NULL,
    symbols         TEXT        NOT NULL,
    status          TEXT        NOT NULL,
    started_at      TIMESTAMPTZ NOT NULL,
    stopped_at      TIMESTAMPTZ,
    claimed_by      TEXT        NOT NULL DEFAULT '',
    claimed_until   BIGINT      NOT NULL DEFAULT 0,
    last_message_at TIMESTAMPTZ,
    messages        BIGINT      NOT NULL DEFAULT 0,
    gaps            BIGINT      NOT NULL DEFAULT 0,
    missed          BIGINT      NOT NULL DEFAULT 0,
    reconnects      BIGINT      NOT NULL DEFAULT 0,
    sequences       TEXT        NOT NULL DEFAULT '{}',
    last_error      TEXT        NOT NULL DEFAULT '',
    last_error_at   TIMESTAMPTZ
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_scale_factor = 0);

CREATE INDEX streams_started ON streams (started_at, stream_id);
