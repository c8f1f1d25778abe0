-- +goose Up

-- backfill: the spans of the past that providers are asked for. status is active, failing,
-- completed, failed or stopped; the last three are final, and such a row stays, so that nothing
-- enters it again. One process works on a row: a claim that is not renewed ends, and another
-- takes over. It continues from next_page, the cursor that was stored once everything before it
-- was in the log. last_id is the id of the last event that was appended.
CREATE TABLE backfills (
    backfill_id     TEXT        PRIMARY KEY,
    provider        TEXT        NOT NULL,
    symbol          TEXT        NOT NULL,
    from_time       TIMESTAMPTZ NOT NULL,
    to_time         TIMESTAMPTZ NOT NULL,
    status          TEXT        NOT NULL,
    started_at      TIMESTAMPTZ NOT NULL,
    ended_at        TIMESTAMPTZ,
    claimed_by      TEXT        NOT NULL DEFAULT '',
    claimed_until   BIGINT      NOT NULL DEFAULT 0,
    next_page       TEXT        NOT NULL DEFAULT '',
    calls           BIGINT      NOT NULL DEFAULT 0,
    prices          BIGINT      NOT NULL DEFAULT 0,
    repeated        BIGINT      NOT NULL DEFAULT 0,
    reached_at      TIMESTAMPTZ,
    last_id         TEXT        NOT NULL DEFAULT '',
    last_error      TEXT        NOT NULL DEFAULT '',
    last_error_at   TIMESTAMPTZ
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_scale_factor = 0);

CREATE INDEX backfills_started ON backfills (started_at, backfill_id);
