-- Watching: when a domain that signs is looked at next (NULL: not planned yet), and what the looks so far found.
-- Whoever looks moves the time first: so it is a lease, too.
ALTER TABLE domains ADD COLUMN next_look_at INTEGER;
-- Since when looks have come to no answer that counts.
ALTER TABLE domains ADD COLUMN unsure_since INTEGER;
-- Wrong answers in a row: about the records of the keys that sign, and about the record of ownership.
ALTER TABLE domains ADD COLUMN record_wrong_looks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE domains ADD COLUMN record_wrong_since INTEGER;
ALTER TABLE domains ADD COLUMN ownership_wrong_looks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE domains ADD COLUMN ownership_wrong_since INTEGER;
CREATE INDEX domains_to_look_at ON domains (next_look_at) WHERE deleted_at IS NULL AND signing <> 'disabled';

-- What becomes of new mail while the record is wrong.
ALTER TABLE domains ADD COLUMN suspended_mail TEXT NOT NULL DEFAULT 'hold' CHECK (suspended_mail IN ('hold', 'refuse'));

-- A look reads what keys of the domain stand in DNS; they are not read one by one any more.
DROP INDEX dkim_keys_to_refresh;
