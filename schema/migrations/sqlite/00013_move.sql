-- +goose Up

-- The id that the ids of derived events follow from: that of the topic which the log
-- was moved here from. Empty where that is topic_id.
ALTER TABLE topics ADD COLUMN origin TEXT NOT NULL DEFAULT '';

-- The move that filled this database; no row where none did. source is the id of the
-- database that it came from, state a hash of its tables as they were, and log what
-- instance.log says once the move is finished.
CREATE TABLE moves (
    singleton   INTEGER PRIMARY KEY CHECK (singleton = 1),
    source      TEXT NOT NULL,
    state       TEXT NOT NULL,
    log         TEXT NOT NULL,
    began_at    TEXT NOT NULL,
    finished_at TEXT
);
