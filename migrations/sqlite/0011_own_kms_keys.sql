-- What a tenant's roles in AWS know us by; trust policies name it, so it never changes.
CREATE TABLE external_ids (
    tenant_id   TEXT NOT NULL PRIMARY KEY REFERENCES tenants (id),
    external_id TEXT NOT NULL UNIQUE,
    created_at  INTEGER NOT NULL
) STRICT;
-- A tenant's own key in the KMS is taken once, by whatever role it is reached.
CREATE UNIQUE INDEX dkim_keys_own ON dkim_keys (public_key) WHERE substr(reference, 1, 12) = 'awskms-role:';
