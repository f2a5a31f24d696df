-- What is sealed under which master key (its name is the first 8 octets): a change looks for what is left, once with a row locked that
-- every new key waits for.
CREATE INDEX dkim_keys_master_key ON dkim_keys (substr(sealed, 1, 8), id) WHERE custody IN ('sealed', 'imported') AND length(sealed) > 0;
