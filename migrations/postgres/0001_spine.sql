-- The spine: tenants, domains with keys, messages with their queue.
-- Ids are TEXT (UUIDv7, 32 hex digits), times BIGINT (milliseconds since the epoch), octets BYTEA, JSON TEXT.
-- Texts are compared by code point ("C"), as SQLite does, whatever the locale of the database is: pages are cut by `id > after`.

-- Facts about the installation itself, for example the check value of the master key.
CREATE TABLE meta (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE tenants (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name         TEXT COLLATE "C" NOT NULL,
    suspended_at BIGINT,
    created_at   BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name         TEXT COLLATE "C" NOT NULL,
    mac          BYTEA NOT NULL,
    scopes       TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, created_at, id);

CREATE TABLE domains (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id       TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name            TEXT COLLATE "C" NOT NULL,
    dkim_mode       TEXT COLLATE "C" NOT NULL CHECK (dkim_mode IN ('txt', 'delegated')),
    ownership       TEXT COLLATE "C" NOT NULL CHECK (ownership IN ('pending', 'verified', 'lost')),
    ownership_token TEXT COLLATE "C" NOT NULL,
    token_issued_at BIGINT NOT NULL,
    proven_at       BIGINT,
    signing         TEXT COLLATE "C" NOT NULL CHECK (signing IN ('disabled', 'enabled', 'suspended')),
    signing_reason  TEXT COLLATE "C",
    version         BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    deleted_at      BIGINT
);
CREATE UNIQUE INDEX domains_name_of_tenant ON domains (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX domains_of_tenant ON domains (tenant_id, id);

-- Who owns a name. The row stays when the owner goes: its version is what claims compare.
CREATE TABLE names (
    name            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    owner_domain_id TEXT COLLATE "C" REFERENCES domains (id),
    version         BIGINT NOT NULL,
    proven_at       BIGINT
);
CREATE INDEX names_of_domain ON names (owner_domain_id) WHERE owner_domain_id IS NOT NULL;

-- Rows are never deleted: a selector that once was published is never given out again (caches, old mail).
CREATE TABLE dkim_keys (
    id                 TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id          TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    domain_id          TEXT COLLATE "C" NOT NULL REFERENCES domains (id),
    domain_name        TEXT COLLATE "C" NOT NULL,
    selector           TEXT COLLATE "C" NOT NULL,
    algorithm          TEXT COLLATE "C" NOT NULL,
    custody            TEXT COLLATE "C" NOT NULL,
    reference          TEXT COLLATE "C" NOT NULL,
    sealed             BYTEA NOT NULL,
    public_key         TEXT COLLATE "C" NOT NULL,
    state              TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'published', 'active', 'retiring', 'retired', 'revoked')),
    published_p        TEXT COLLATE "C",
    published_read_at  BIGINT,
    published_tried_at BIGINT,
    created_at         BIGINT NOT NULL,
    UNIQUE (domain_name, selector)
);
CREATE INDEX dkim_keys_of_domain ON dkim_keys (domain_id, id);
CREATE INDEX dkim_keys_to_refresh ON dkim_keys (published_tried_at) WHERE state IN ('active', 'retiring');

CREATE TABLE checks (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id  TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    domain_id  TEXT COLLATE "C" NOT NULL REFERENCES domains (id),
    verdict    TEXT COLLATE "C" NOT NULL CHECK (verdict IN ('pass', 'fail', 'indeterminate')),
    checked_at BIGINT NOT NULL,
    records    TEXT COLLATE "C" NOT NULL
);
CREATE INDEX checks_of_domain ON checks (domain_id, id);

CREATE TABLE messages (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id      TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    message_id     TEXT COLLATE "C" NOT NULL,
    status         TEXT COLLATE "C" NOT NULL CHECK (status IN ('scheduled', 'awaiting_signature', 'held', 'queued', 'sending',
                       'deferred', 'delivered', 'bounced', 'expired', 'suppressed', 'cancelled', 'partial')),
    from_header    TEXT COLLATE "C" NOT NULL,
    subject        TEXT COLLATE "C" NOT NULL,
    size           BIGINT NOT NULL,
    domain_id      TEXT COLLATE "C" NOT NULL REFERENCES domains (id),
    mail_from      TEXT COLLATE "C",
    signatures     TEXT COLLATE "C" NOT NULL,
    tags           TEXT COLLATE "C" NOT NULL,
    metadata       TEXT COLLATE "C" NOT NULL,
    warnings       TEXT COLLATE "C" NOT NULL,
    waiting_reason TEXT COLLATE "C",
    release_at     BIGINT,
    expires_at     BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    -- The fence of the worker that is releasing it.
    worker_id      TEXT COLLATE "C",
    epoch          BIGINT
);
CREATE INDEX messages_of_tenant ON messages (tenant_id, id);
CREATE INDEX messages_by_status ON messages (tenant_id, status, id);
CREATE INDEX messages_of_domain ON messages (domain_id, status);
CREATE INDEX messages_to_release ON messages (release_at, id) WHERE status IN ('scheduled', 'awaiting_signature', 'held');
CREATE INDEX messages_of_worker ON messages (worker_id) WHERE worker_id IS NOT NULL;

-- Apart from `messages`, so that lists do not drag octets along.
CREATE TABLE bodies (
    message_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES messages (id),
    prefix     BYTEA NOT NULL,
    raw        BYTEA NOT NULL
);

CREATE TABLE recipients (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    message_id      TEXT COLLATE "C" NOT NULL REFERENCES messages (id),
    address         TEXT COLLATE "C" NOT NULL,
    domain          TEXT COLLATE "C" NOT NULL,
    status          TEXT COLLATE "C" NOT NULL CHECK (status IN ('scheduled', 'awaiting_signature', 'held', 'queued', 'sending',
                        'deferred', 'delivered', 'bounced', 'expired', 'suppressed', 'cancelled')),
    attempts        BIGINT NOT NULL,
    uncertain       BOOLEAN NOT NULL,
    last_reply      TEXT COLLATE "C",
    next_attempt_at BIGINT,
    -- The fence of the worker that is sending to it.
    worker_id       TEXT COLLATE "C",
    epoch           BIGINT,
    CHECK ((status = 'sending') = (worker_id IS NOT NULL)),
    -- A recipient that waits without a time would wait for ever.
    CHECK (status NOT IN ('queued', 'deferred') OR next_attempt_at IS NOT NULL)
);
CREATE INDEX recipients_of_message ON recipients (message_id, id);
CREATE INDEX recipients_due ON recipients (next_attempt_at, id) WHERE status IN ('queued', 'deferred');
CREATE INDEX recipients_of_worker ON recipients (worker_id) WHERE worker_id IS NOT NULL;

-- A worker's lease. The epoch only grows; lease_until is NULL once the lease is void.
CREATE TABLE workers (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    epoch       BIGINT NOT NULL,
    lease_until BIGINT
);

CREATE TABLE events (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    kind         TEXT COLLATE "C" NOT NULL,
    at           BIGINT NOT NULL,
    message_id   TEXT COLLATE "C",
    recipient_id TEXT COLLATE "C",
    domain       TEXT COLLATE "C",
    details      TEXT COLLATE "C" NOT NULL
);
CREATE INDEX events_of_message ON events (tenant_id, message_id, at, id) WHERE message_id IS NOT NULL;

CREATE TABLE idempotency (
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    method       TEXT COLLATE "C" NOT NULL,
    path         TEXT COLLATE "C" NOT NULL,
    key          TEXT COLLATE "C" NOT NULL,
    body_hash    BYTEA NOT NULL,
    -- `abandoned`: ended in a 5xx. The row stays, because the transaction of the request may still commit.
    state        TEXT COLLATE "C" NOT NULL CHECK (state IN ('in_flight', 'abandoned', 'done')),
    status       BIGINT,
    content_type TEXT COLLATE "C",
    body         BYTEA,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, method, path, key),
    CHECK (state <> 'done' OR (status IS NOT NULL AND content_type IS NOT NULL AND body IS NOT NULL))
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE audit (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id  TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    actor      TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    object     TEXT COLLATE "C" NOT NULL,
    details    TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C",
    at         BIGINT NOT NULL
);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit rows are append-only';
END
$$;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_is_never_emptied BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
