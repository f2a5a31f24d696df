-- Ed25519 keys that sign access tokens. One after the other: the number decides who is the next.
CREATE TABLE token_keys (
    number     BIGINT PRIMARY KEY,
    kid        TEXT   NOT NULL UNIQUE,
    public_key BYTEA  NOT NULL,
    sealed     BYTEA  NOT NULL,
    signs_from BIGINT NOT NULL
);
