-- +goose Up

-- How much of a client's requests is spent, in 60,000,000 a request, at a time in
-- milliseconds, and what API processes have reserved, as JSON: see httpapi/ratelimit. A crash of the server may empty
-- it, as each bucket is full again after a minute.
CREATE UNLOGGED TABLE rate_limits (
    client TEXT   PRIMARY KEY,
    level  BIGINT NOT NULL,
    at_ms  BIGINT NOT NULL,
    holds  TEXT   NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
