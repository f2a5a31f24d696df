-- What tenants used, by day (its start, UTC) and kind (`signature`, `message`). Counted in memory, added here in batches.
CREATE TABLE usage (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    day       INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    count     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, day, kind)
) STRICT, WITHOUT ROWID;
