-- Delegated mode: the names that the CNAMEs of tenants lead to, three for each claim.
-- Rows are never deleted: a target is never given out again, and what is not to stand there any more is kept away.
CREATE TABLE delegation_slots (
    -- Full name, without trailing dot.
    target            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant_id         TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    domain_id         TEXT COLLATE "C" NOT NULL REFERENCES domains (id),
    -- 0, 1, 2
    place             BIGINT NOT NULL,
    selector          TEXT COLLATE "C" NOT NULL,
    -- The key that it holds, or held last.
    key_id            TEXT COLLATE "C" REFERENCES dkim_keys (id),
    -- What is to stand there: nothing, the record of the key, or one that says that the key is revoked.
    shows             TEXT COLLATE "C" NOT NULL CHECK (shows IN ('nothing', 'key', 'revoked')),
    -- +1 whenever that changes.
    version           BIGINT NOT NULL,
    -- The version that DNS took last. A lower one than `version`: an update is owed.
    published_version BIGINT NOT NULL,
    -- Since then DNS has it.
    published_at      BIGINT,
    -- Without a key: from then on it may be filled anew.
    free_at           BIGINT,
    UNIQUE (domain_id, place),
    UNIQUE (domain_id, selector)
);
CREATE INDEX delegation_slots_owed ON delegation_slots (target) WHERE published_version < version;
CREATE INDEX delegation_slots_of_key ON delegation_slots (key_id) WHERE key_id IS NOT NULL;
CREATE FUNCTION delegation_slots_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a target is never given out again';
END
$$;
CREATE TRIGGER delegation_slots_are_never_deleted BEFORE DELETE ON delegation_slots
    FOR EACH ROW EXECUTE FUNCTION delegation_slots_stay();
CREATE TRIGGER delegation_slots_are_never_emptied BEFORE TRUNCATE ON delegation_slots
    FOR EACH STATEMENT EXECUTE FUNCTION delegation_slots_stay();
CREATE TRIGGER delegation_slots_are_never_moved BEFORE UPDATE OF target, tenant_id, domain_id, selector ON delegation_slots
    FOR EACH ROW EXECUTE FUNCTION delegation_slots_stay();

-- The selector of a key whose slot was filled anew. `selector` then holds `<selector>/<id>`, so that of the keys of a name one at a
-- time has a selector.
ALTER TABLE dkim_keys ADD COLUMN former_selector TEXT COLLATE "C";
