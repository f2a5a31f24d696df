-- Keys held by another machine: when each was given up there. NULL while that is still owed.
ALTER TABLE dkim_keys ADD COLUMN withdrawn_at INTEGER;
CREATE INDEX dkim_keys_to_withdraw ON dkim_keys (id)
    WHERE custody <> 'sealed' AND state = 'revoked' AND withdrawn_at IS NULL;
-- A key there belongs to one row, and by it to one tenant and domain.
CREATE UNIQUE INDEX dkim_keys_of_reference ON dkim_keys (reference) WHERE custody <> 'sealed';
