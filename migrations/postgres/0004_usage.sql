-- What tenants used, by day (its start, UTC) and kind (`signature`, `message`). Counted in memory, added here in batches.
CREATE TABLE usage (
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    day       BIGINT NOT NULL,
    kind      TEXT COLLATE "C" NOT NULL,
    count     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, day, kind)
);
