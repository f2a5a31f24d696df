-- Domains whose key cannot be used: every process looks for them now and then.
CREATE INDEX domains_key_unavailable ON domains (id) WHERE signing = 'suspended' AND signing_reason = 'key_unavailable';
