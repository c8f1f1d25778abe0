-- +goose Up

-- fetch and normalize: the polling jobs that fail, or did not long ago. state is
-- JSON: see handlers/failingjobs.
CREATE TABLE failing_jobs (
    job_id TEXT PRIMARY KEY,
    state  TEXT NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
