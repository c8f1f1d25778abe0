-- +goose Up

-- fetch: what each provider's service has been asked lately, by all processes
-- together, and until when it wants to be left alone (milliseconds). spent is
-- JSON: see handlers/fetch/budget.go.
CREATE TABLE fetch_budgets (
    provider     TEXT    PRIMARY KEY,
    closed_until INTEGER NOT NULL,
    spent        TEXT    NOT NULL
) WITHOUT ROWID;

-- fetch: symbols whose last request failed for want of a call. The next request
-- for such a symbol takes its place in the queue: that of one made at since.
CREATE TABLE fetch_refused (
    provider   TEXT NOT NULL,
    symbol     TEXT NOT NULL,
    since      TEXT NOT NULL,
    refused_at TEXT NOT NULL,
    PRIMARY KEY (provider, symbol)
) WITHOUT ROWID;
