-- The life of a key: since when it is in its state, and the times that its next state depends on.
ALTER TABLE dkim_keys ADD COLUMN state_since BIGINT NOT NULL DEFAULT 0;
-- Since when every server that answers serves its record.
ALTER TABLE dkim_keys ADD COLUMN first_seen_at BIGINT;
-- TTL of its record, in milliseconds.
ALTER TABLE dkim_keys ADD COLUMN record_ttl BIGINT;
-- Until then caches may hold what stood at its name before.
ALTER TABLE dkim_keys ADD COLUMN other_data_until BIGINT;
ALTER TABLE dkim_keys ADD COLUMN retiring_since BIGINT;
ALTER TABLE dkim_keys ADD COLUMN safe_to_remove_at BIGINT;
-- When the tenant was last asked to publish its record; only where a rotation waits for that.
ALTER TABLE dkim_keys ADD COLUMN reminded_at BIGINT;
-- What is retiring already begins anew, with the default lifetime of the queue: when it began was not kept.
UPDATE dkim_keys SET state_since = created_at WHERE state <> 'retiring';
UPDATE dkim_keys
   SET state_since = CAST(FLOOR(EXTRACT(EPOCH FROM now()) * 1000) AS BIGINT),
       retiring_since = CAST(FLOOR(EXTRACT(EPOCH FROM now()) * 1000) AS BIGINT),
       safe_to_remove_at = CAST(FLOOR(EXTRACT(EPOCH FROM now()) * 1000) AS BIGINT) + CAST(11 AS BIGINT) * 86400000
 WHERE state = 'retiring';
UPDATE dkim_keys SET first_seen_at = published_read_at WHERE state IN ('published', 'active', 'retiring');
CREATE INDEX dkim_keys_on_their_way ON dkim_keys (id) WHERE state IN ('pending', 'published');
CREATE INDEX dkim_keys_to_retire ON dkim_keys (safe_to_remove_at) WHERE state = 'retiring';

-- What is retired is given up where it is held, as what is revoked.
DROP INDEX dkim_keys_to_withdraw;
CREATE INDEX dkim_keys_to_withdraw ON dkim_keys (id)
    WHERE custody <> 'sealed' AND state IN ('retired', 'revoked') AND withdrawn_at IS NULL;

-- Days between rotations; NULL: none by themselves.
ALTER TABLE domains ADD COLUMN rotation_days BIGINT DEFAULT 180;

-- The domain that an audit row tells of, also after its deletion. Rows of messages have none: they are found by their message.
ALTER TABLE audit ADD COLUMN domain_id TEXT COLLATE "C";
CREATE INDEX audit_of_tenant ON audit (tenant_id, id);
CREATE INDEX audit_of_domain ON audit (tenant_id, domain_id, id) WHERE domain_id IS NOT NULL;
CREATE INDEX audit_by_action ON audit (tenant_id, action, id) WHERE action <> 'message.accepted';
