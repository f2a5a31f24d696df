-- A key of each kind, RSA and Ed25519, signs (RFC 8463 5), where it is switched on.
ALTER TABLE domains ADD COLUMN dual_signing INTEGER NOT NULL DEFAULT 0 CHECK (dual_signing IN (0, 1));
