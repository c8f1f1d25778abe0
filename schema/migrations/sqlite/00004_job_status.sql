-- +goose Up

-- schedule: what a client made of a job. A stopped one stays, so that nothing
-- enters it again.
ALTER TABLE schedules ADD COLUMN status TEXT NOT NULL DEFAULT 'active';

DROP INDEX schedules_due;

CREATE INDEX schedules_due ON schedules (next_run) WHERE status = 'active';
