-- +goose Up

-- The trace of the command that made a job, until its first run continues it; empty for
-- none.
ALTER TABLE schedules ADD COLUMN traceparent TEXT NOT NULL DEFAULT '';
