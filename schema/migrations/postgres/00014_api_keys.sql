-- +goose Up

-- The keys of clients of the API. hash is the SHA-256 of the whole key: the key itself is
-- stored nowhere. rate_per_minute is 0 where the key has the limit of the service.
CREATE TABLE api_keys (
    key_id          TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    scope           TEXT NOT NULL,
    hash            BYTEA NOT NULL,
    rate_per_minute BIGINT NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    last_used_at    TIMESTAMPTZ,
    revoked_at      TIMESTAMPTZ
);
CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_at IS NULL;

-- version grows with each change of api_keys but last_used_at, for processes to see at
-- little cost that they have to read them again.
CREATE TABLE api_key_version (
    singleton BIGINT PRIMARY KEY CHECK (singleton = 1),
    version   BIGINT NOT NULL
);
INSERT INTO api_key_version (singleton, version) VALUES (1, 0);
