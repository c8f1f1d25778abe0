-- +goose Up

-- scratch is 1 for a generation that somebody fills for a purpose of his own, as
-- verify does to compare it with the active one. It goes again, and where its
-- maker was killed, the next one finds it by this.
ALTER TABLE generations ADD COLUMN scratch INTEGER NOT NULL DEFAULT 0;
