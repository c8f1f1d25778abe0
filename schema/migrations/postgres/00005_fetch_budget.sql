-- +goose Up

-- fetch: what each provider's service has been asked lately, by all processes
-- together, and until when it wants to be left alone (milliseconds). spent is
-- JSON: see handlers/fetch/budget.go. A row a provider, updated with every claim
-- and outcome: laid out like positions.
CREATE TABLE fetch_budgets (
    provider     TEXT   PRIMARY KEY,
    closed_until BIGINT NOT NULL,
    spent        TEXT   NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- fetch: symbols whose last request failed for want of a call. The next request
-- for such a symbol takes its place in the queue: that of one made at since.
CREATE TABLE fetch_refused (
    provider   TEXT NOT NULL,
    symbol     TEXT NOT NULL,
    since      TIMESTAMPTZ NOT NULL,
    refused_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (provider, symbol)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
