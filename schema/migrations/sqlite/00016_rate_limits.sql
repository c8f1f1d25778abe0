-- +goose Up

-- How much of a client's requests is spent, in 60,000,000 a request, at a time in
-- milliseconds, and what API processes have reserved, as JSON: see httpapi/ratelimit.
CREATE TABLE rate_limits (
    client TEXT    PRIMARY KEY,
    level  INTEGER NOT NULL,
    at_ms  INTEGER NOT NULL,
    holds  TEXT    NOT NULL
) WITHOUT ROWID;
