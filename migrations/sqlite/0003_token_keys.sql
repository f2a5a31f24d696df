-- Ed25519 keys that sign access tokens. One after the other: the number decides who is the next.
CREATE TABLE token_keys (
    number     INTEGER PRIMARY KEY,
    kid        TEXT    NOT NULL UNIQUE,
    public_key BLOB    NOT NULL,
    sealed     BLOB    NOT NULL,
    signs_from INTEGER NOT NULL
);
