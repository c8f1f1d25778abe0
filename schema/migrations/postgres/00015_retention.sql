-- +goose Up

-- What retention has deleted of the tables of projections: rows from before kept_from, by
-- the name of the projection. It never goes back.
CREATE TABLE retention (
    name      TEXT PRIMARY KEY,
    kept_from TIMESTAMPTZ NOT NULL
);

-- The polling jobs that retention has deleted. Their ids stay, so that a repeated command
-- starts none of them again.
CREATE TABLE forgotten_jobs (
    job_id       TEXT PRIMARY KEY,
    forgotten_at TIMESTAMPTZ NOT NULL
);
