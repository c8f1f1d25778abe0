-- +goose Up

-- The identity of this database's outbox: one row.
CREATE TABLE instance (
    singleton BIGINT PRIMARY KEY CHECK (singleton = 1),
    id        TEXT   NOT NULL
);

-- Each incarnation of a topic that this database has seen.
CREATE TABLE topics (
    epoch      BIGINT PRIMARY KEY,
    name       TEXT   NOT NULL,
    topic_id   TEXT   NOT NULL UNIQUE,
    partitions BIGINT NOT NULL
);

-- How far each stage has come. A few hundred rows at most, each updated with
-- every batch of its partition. No index holds a column that changes, so an
-- update that finds room on its page touches no index and leaves nothing for
-- VACUUM but what the next visitor of the page clears away: hence the room.
-- VACUUM comes after 1,000 dead rows whatever the size of the table; the
-- default, a fifth of so small a table, would have it come without end.
CREATE TABLE positions (
    stage        TEXT        NOT NULL,
    topic        TEXT        NOT NULL,
    part         BIGINT      NOT NULL,
    topic_id     TEXT        NOT NULL,
    next_offset  BIGINT      NOT NULL,
    chain_outbox TEXT        NOT NULL,
    chain_seq    BIGINT      NOT NULL,
    halted       TEXT        NOT NULL,
    moved_at     TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (stage, topic, part)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The numbers given to the events for each partition. Updated as often as
-- positions, by stages and the relay, and laid out like it.
CREATE TABLE chains (
    epoch BIGINT NOT NULL,
    part  BIGINT NOT NULL,
    last  BIGINT NOT NULL,
    sent  BIGINT NOT NULL,
    PRIMARY KEY (epoch, part)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Events that are not yet known to be in the log. A row lives for some
-- milliseconds, so nearly all there ever is is dead: VACUUM comes by the number
-- of dead rows, since a share of a table that is nearly empty says nothing, and
-- does not pause, since the relay's reads step over every dead entry of the
-- index until it has been there. The rows are few and small by then; statistics
-- of so short a life mislead, and no plan needs them.
CREATE TABLE outbox (
    epoch   BIGINT NOT NULL,
    part    BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    msg_key BYTEA  NOT NULL,
    headers BYTEA  NOT NULL,
    payload BYTEA  NOT NULL,
    PRIMARY KEY (epoch, part, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);

-- Records that a stage stepped over. An id is never used again.
CREATE TABLE dead_letters (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stage      TEXT        NOT NULL,
    topic      TEXT        NOT NULL,
    topic_id   TEXT        NOT NULL,
    part       BIGINT      NOT NULL,
    log_offset BIGINT      NOT NULL,
    msg_key    BYTEA,
    headers    BYTEA       NOT NULL,
    payload    BYTEA,
    reason     TEXT        NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    UNIQUE (stage, topic_id, part, log_offset)
);

-- Renewed every second or so by its holder.
CREATE TABLE leases (
    name       TEXT   PRIMARY KEY,
    owner      TEXT   NOT NULL,
    expires_ms BIGINT NOT NULL
) WITH (fillfactor = 20);

-- The generations of each projection. fold names the code and settings that
-- built it. active is 1 or 0, as in the engines that have no booleans.
CREATE TABLE generations (
    projection TEXT        NOT NULL,
    number     BIGINT      NOT NULL,
    fold       TEXT        NOT NULL,
    active     BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (projection, number)
);
