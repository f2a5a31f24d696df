-- The life of a key: since when it is in its state, and the times that its next state depends on.
ALTER TABLE dkim_keys ADD COLUMN state_since INTEGER NOT NULL DEFAULT 0;
-- Since when every server that answers serves its record.
ALTER TABLE dkim_keys ADD COLUMN first_seen_at INTEGER;
-- TTL of its record, in milliseconds.
ALTER TABLE dkim_keys ADD COLUMN record_ttl INTEGER;
-- Until then caches may hold what stood at its name before.
ALTER TABLE dkim_keys ADD COLUMN other_data_until INTEGER;
ALTER TABLE dkim_keys ADD COLUMN retiring_since INTEGER;
ALTER TABLE dkim_keys ADD COLUMN safe_to_remove_at INTEGER;
-- When the tenant was last asked to publish its record; only where a rotation waits for that.
ALTER TABLE dkim_keys ADD COLUMN reminded_at INTEGER;
-- What is retiring already begins anew, with the default lifetime of the queue: when it began was not kept.
UPDATE dkim_keys SET state_since = created_at WHERE state <> 'retiring';
UPDATE dkim_keys
   SET state_since = CAST(strftime('%s', 'now') AS INTEGER) * 1000,
       retiring_since = CAST(strftime('%s', 'now') AS INTEGER) * 1000,
       safe_to_remove_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000 + 11 * 86400000
 WHERE state = 'retiring';
UPDATE dkim_keys SET first_seen_at = published_read_at WHERE state IN ('published', 'active', 'retiring');
CREATE INDEX dkim_keys_on_their_way ON dkim_keys (id) WHERE state IN ('pending', 'published');
CREATE INDEX dkim_keys_to_retire ON dkim_keys (safe_to_remove_at) WHERE state = 'retiring';

-- What is retired is given up where it is held, as what is revoked.
DROP INDEX dkim_keys_to_withdraw;
CREATE INDEX dkim_keys_to_withdraw ON dkim_keys (id)
    WHERE custody <> 'sealed' AND state IN ('retired', 'revoked') AND withdrawn_at IS NULL;

-- Days between rotations; NULL: none by themselves.
ALTER TABLE domains ADD COLUMN rotation_days INTEGER DEFAULT 180;

-- The domain that an audit row tells of, also after its deletion. Rows of messages have none: they are found by their message.
ALTER TABLE audit ADD COLUMN domain_id TEXT;
CREATE INDEX audit_of_tenant ON audit (tenant_id, id);
CREATE INDEX audit_of_domain ON audit (tenant_id, domain_id, id) WHERE domain_id IS NOT NULL;
CREATE INDEX audit_by_action ON audit (tenant_id, action, id) WHERE action <> 'message.accepted';
-- REPLACE deletes what is in its way, and fires no trigger for that.
CREATE TRIGGER audit_is_never_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'audit rows are append-only');
END;
