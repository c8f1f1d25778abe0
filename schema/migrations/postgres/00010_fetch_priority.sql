-- +goose Up

-- fetch: 1 for the request of a polling job, 0 for one that a client waits for,
-- which goes first.
ALTER TABLE fetch_queue ADD COLUMN scheduled BIGINT NOT NULL DEFAULT 0;

DROP INDEX fetch_queue_open;

CREATE INDEX fetch_queue_open ON fetch_queue (provider, scheduled, requested_at);
