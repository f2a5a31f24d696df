-- The spine: tenants, domains with keys, messages with their queue.
-- Ids are TEXT (UUIDv7, 32 hex digits), times INTEGER (milliseconds since the epoch), octets BLOB, JSON TEXT.

-- Facts about the installation itself, for example the check value of the master key.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE tenants (
    id           TEXT NOT NULL PRIMARY KEY,
    name         TEXT NOT NULL,
    suspended_at INTEGER,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id           TEXT NOT NULL PRIMARY KEY,
    tenant_id    TEXT NOT NULL REFERENCES tenants (id),
    name         TEXT NOT NULL,
    mac          BLOB NOT NULL,
    scopes       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT;
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, created_at, id);

CREATE TABLE domains (
    id              TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL REFERENCES tenants (id),
    name            TEXT NOT NULL,
    dkim_mode       TEXT NOT NULL CHECK (dkim_mode IN ('txt', 'delegated')),
    ownership       TEXT NOT NULL CHECK (ownership IN ('pending', 'verified', 'lost')),
    ownership_token TEXT NOT NULL,
    token_issued_at INTEGER NOT NULL,
    proven_at       INTEGER,
    signing         TEXT NOT NULL CHECK (signing IN ('disabled', 'enabled', 'suspended')),
    signing_reason  TEXT,
    version         INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    deleted_at      INTEGER
) STRICT;
CREATE UNIQUE INDEX domains_name_of_tenant ON domains (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX domains_of_tenant ON domains (tenant_id, id);

-- Who owns a name. The row stays when the owner goes: its version is what claims compare.
CREATE TABLE names (
    name            TEXT NOT NULL PRIMARY KEY,
    owner_domain_id TEXT REFERENCES domains (id),
    version         INTEGER NOT NULL,
    proven_at       INTEGER
) STRICT;
CREATE INDEX names_of_domain ON names (owner_domain_id) WHERE owner_domain_id IS NOT NULL;

-- Rows are never deleted: a selector that once was published is never given out again (caches, old mail).
CREATE TABLE dkim_keys (
    id                 TEXT NOT NULL PRIMARY KEY,
    tenant_id          TEXT NOT NULL REFERENCES tenants (id),
    domain_id          TEXT NOT NULL REFERENCES domains (id),
    domain_name        TEXT NOT NULL,
    selector           TEXT NOT NULL,
    algorithm          TEXT NOT NULL,
    custody            TEXT NOT NULL,
    reference          TEXT NOT NULL,
    sealed             BLOB NOT NULL,
    public_key         TEXT NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('pending', 'published', 'active', 'retiring', 'retired', 'revoked')),
    published_p        TEXT,
    published_read_at  INTEGER,
    published_tried_at INTEGER,
    created_at         INTEGER NOT NULL,
    UNIQUE (domain_name, selector)
) STRICT;
CREATE INDEX dkim_keys_of_domain ON dkim_keys (domain_id, id);
CREATE INDEX dkim_keys_to_refresh ON dkim_keys (published_tried_at) WHERE state IN ('active', 'retiring');

CREATE TABLE checks (
    id         TEXT NOT NULL PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    domain_id  TEXT NOT NULL REFERENCES domains (id),
    verdict    TEXT NOT NULL CHECK (verdict IN ('pass', 'fail', 'indeterminate')),
    checked_at INTEGER NOT NULL,
    records    TEXT NOT NULL
) STRICT;
CREATE INDEX checks_of_domain ON checks (domain_id, id);

CREATE TABLE messages (
    id             TEXT NOT NULL PRIMARY KEY,
    tenant_id      TEXT NOT NULL REFERENCES tenants (id),
    message_id     TEXT NOT NULL,
    status         TEXT NOT NULL CHECK (status IN ('scheduled', 'awaiting_signature', 'held', 'queued', 'sending',
                       'deferred', 'delivered', 'bounced', 'expired', 'suppressed', 'cancelled', 'partial')),
    from_header    TEXT NOT NULL,
    subject        TEXT NOT NULL,
    size           INTEGER NOT NULL,
    domain_id      TEXT NOT NULL REFERENCES domains (id),
    mail_from      TEXT,
    signatures     TEXT NOT NULL,
    tags           TEXT NOT NULL,
    metadata       TEXT NOT NULL,
    warnings       TEXT NOT NULL,
    waiting_reason TEXT,
    release_at     INTEGER,
    expires_at     INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    -- The fence of the worker that is releasing it.
    worker_id      TEXT,
    epoch          INTEGER
) STRICT;
CREATE INDEX messages_of_tenant ON messages (tenant_id, id);
CREATE INDEX messages_by_status ON messages (tenant_id, status, id);
CREATE INDEX messages_of_domain ON messages (domain_id, status);
CREATE INDEX messages_to_release ON messages (release_at, id) WHERE status IN ('scheduled', 'awaiting_signature', 'held');
CREATE INDEX messages_of_worker ON messages (worker_id) WHERE worker_id IS NOT NULL;

-- Apart from `messages`, so that lists do not drag octets along.
CREATE TABLE bodies (
    message_id TEXT NOT NULL PRIMARY KEY REFERENCES messages (id),
    prefix     BLOB NOT NULL,
    raw        BLOB NOT NULL
) STRICT;

CREATE TABLE recipients (
    id              TEXT NOT NULL PRIMARY KEY,
    message_id      TEXT NOT NULL REFERENCES messages (id),
    address         TEXT NOT NULL,
    domain          TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('scheduled', 'awaiting_signature', 'held', 'queued', 'sending',
                        'deferred', 'delivered', 'bounced', 'expired', 'suppressed', 'cancelled')),
    attempts        INTEGER NOT NULL,
    uncertain       INTEGER NOT NULL CHECK (uncertain IN (0, 1)),
    last_reply      TEXT,
    next_attempt_at INTEGER,
    -- The fence of the worker that is sending to it.
    worker_id       TEXT,
    epoch           INTEGER,
    CHECK ((status = 'sending') = (worker_id IS NOT NULL)),
    -- A recipient that waits without a time would wait for ever.
    CHECK (status NOT IN ('queued', 'deferred') OR next_attempt_at IS NOT NULL)
) STRICT;
CREATE INDEX recipients_of_message ON recipients (message_id, id);
CREATE INDEX recipients_due ON recipients (next_attempt_at, id) WHERE status IN ('queued', 'deferred');
CREATE INDEX recipients_of_worker ON recipients (worker_id) WHERE worker_id IS NOT NULL;

-- A worker's lease. The epoch only grows; lease_until is NULL once the lease is void.
CREATE TABLE workers (
    id          TEXT NOT NULL PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    lease_until INTEGER
) STRICT;

CREATE TABLE events (
    id           TEXT NOT NULL PRIMARY KEY,
    tenant_id    TEXT NOT NULL REFERENCES tenants (id),
    kind         TEXT NOT NULL,
    at           INTEGER NOT NULL,
    message_id   TEXT,
    recipient_id TEXT,
    domain       TEXT,
    details      TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_message ON events (message_id, at, id) WHERE message_id IS NOT NULL;
CREATE INDEX events_of_tenant ON events (tenant_id, at, id);

CREATE TABLE idempotency (
    tenant_id    TEXT NOT NULL REFERENCES tenants (id),
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    key          TEXT NOT NULL,
    body_hash    BLOB NOT NULL,
    -- `abandoned`: ended in a 5xx. The row stays, because the transaction of the request may still commit.
    state        TEXT NOT NULL CHECK (state IN ('in_flight', 'abandoned', 'done')),
    status       INTEGER,
    content_type TEXT,
    body         BLOB,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, method, path, key),
    CHECK (state <> 'done' OR (status IS NOT NULL AND content_type IS NOT NULL AND body IS NOT NULL))
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE audit (
    id         TEXT NOT NULL PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    actor      TEXT NOT NULL,
    action     TEXT NOT NULL,
    object     TEXT NOT NULL,
    details    TEXT NOT NULL,
    request_id TEXT,
    at         INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_of_tenant ON audit (tenant_id, at, id);

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are append-only');
END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are append-only');
END;
