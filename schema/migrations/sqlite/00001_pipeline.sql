-- +goose Up

-- The identity of this database's outbox: one row.
CREATE TABLE instance (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    id        TEXT    NOT NULL
);

-- Each incarnation of a topic that this database has seen.
CREATE TABLE topics (
    epoch      INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    topic_id   TEXT    NOT NULL UNIQUE,
    partitions INTEGER NOT NULL
);

-- How far each stage has come.
CREATE TABLE positions (
    stage        TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    part         INTEGER NOT NULL,
    topic_id     TEXT    NOT NULL,
    next_offset  INTEGER NOT NULL,
    chain_outbox TEXT    NOT NULL,
    chain_seq    INTEGER NOT NULL,
    halted       TEXT    NOT NULL,
    moved_at     TEXT    NOT NULL,
    PRIMARY KEY (stage, topic, part)
) WITHOUT ROWID;

-- The numbers given to the events for each partition.
CREATE TABLE chains (
    epoch INTEGER NOT NULL,
    part  INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    sent  INTEGER NOT NULL,
    PRIMARY KEY (epoch, part)
) WITHOUT ROWID;

-- Events that are not yet known to be in the log.
CREATE TABLE outbox (
    epoch   INTEGER NOT NULL,
    part    INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    msg_key BLOB    NOT NULL,
    headers BLOB    NOT NULL,
    payload BLOB    NOT NULL,
    PRIMARY KEY (epoch, part, seq)
) WITHOUT ROWID;

-- Records that a stage stepped over. AUTOINCREMENT: an id is never used again.
CREATE TABLE dead_letters (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    stage      TEXT    NOT NULL,
    topic      TEXT    NOT NULL,
    topic_id   TEXT    NOT NULL,
    part       INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    msg_key    BLOB,
    headers    BLOB    NOT NULL,
    payload    BLOB,
    reason     TEXT    NOT NULL,
    created_at TEXT    NOT NULL,
    UNIQUE (stage, topic_id, part, log_offset)
);

CREATE TABLE leases (
    name       TEXT    PRIMARY KEY,
    owner      TEXT    NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- The generations of each projection. fold names the code and settings that
-- built it.
CREATE TABLE generations (
    projection TEXT    NOT NULL,
    number     INTEGER NOT NULL,
    fold       TEXT    NOT NULL,
    active     INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    PRIMARY KEY (projection, number)
) WITHOUT ROWID;
