-- A key of each kind, RSA and Ed25519, signs (RFC 8463 5), where it is switched on.
ALTER TABLE domains ADD COLUMN dual_signing BOOLEAN NOT NULL DEFAULT FALSE;
