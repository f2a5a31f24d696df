-- Keys that lie here although they are not `sealed` (imported, or wrapped by a key in the KMS) are not another machine's to give up.
DROP INDEX dkim_keys_to_withdraw;
CREATE INDEX dkim_keys_to_withdraw ON dkim_keys (id)
    WHERE custody = 'aws-kms' AND state IN ('retired', 'revoked') AND withdrawn_at IS NULL;
DROP INDEX dkim_keys_of_reference;
CREATE UNIQUE INDEX dkim_keys_of_reference ON dkim_keys (reference) WHERE custody = 'aws-kms';
-- An RSA key is imported once, also where two requests bring it at the same time.
CREATE UNIQUE INDEX dkim_keys_imported ON dkim_keys (public_key) WHERE custody = 'imported' AND algorithm <> 'ed25519';
