//! Names parsed once: a value of these types cannot be wrong.
use std::fmt;

/// Why a name was refused. The text is for people and safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

/// A domain name as used in d=, lower-case A-labels, no trailing dot (RFC 6376 3.5, RFC 5890).
/// LDH labels of 1-63 octets, at least two labels, at most 253 octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SigningDomain(String);

impl SigningDomain {
    /// Accepts U-labels and A-labels in any case, one optional trailing dot. Address literals, single labels,
    /// empty labels, underscores and hyphens at a label's edge are errors.
    pub fn parse(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// The A-label form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// True if `self` equals `other` or lies below it; compared label-wise.
    pub fn is_at_or_below(&self, _other: &SigningDomain) -> bool {
        todo!()
    }
    /// `self`, then each ancestor with at least two labels, nearest first.
    pub fn self_and_ancestors(&self) -> Vec<SigningDomain> {
        todo!()
    }
}

impl fmt::Display for SigningDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A selector (RFC 6376 3.1): dot-separated LDH labels, lower-case, each 1-63 octets, no hyphen at an edge, no underscore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(String);

impl Selector {
    /// Strict: what we create. (On verify any selector text is looked up, see `verify`.)
    pub fn parse(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// The text as it stands in s=.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// `<selector>._domainkey.<domain>` (RFC 6376 3.6.2.1).
    pub fn record_name(&self, _domain: &SigningDomain) -> String {
        todo!()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One mailbox (RFC 5322 3.4): optional display name (decoded), local part (unquoted), domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    name: Option<String>,
    local: String,
    domain: SigningDomain,
}

impl Mailbox {
    /// From parts, for callers that have already split them. `local` is unquoted. CR, LF, NUL and other control characters refused;
    /// local at most 64 octets (RFC 5321 4.5.3.1.1), not empty; non-ASCII UTF-8 allowed in it (RFC 6531).
    pub fn new(_name: Option<&str>, _local: &str, _domain: SigningDomain) -> Result<Self, NameError> {
        todo!()
    }
    /// The bare address form `local@domain` of RFC 5321 Mailbox (quoted local part allowed); no display name, no angle brackets, no comments.
    pub fn parse_address(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// `Ann <ann@example.com>`, `"A, B" <ab@example.com>` or the bare address. U-label domains become A-labels.
    pub fn parse(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// The display name, decoded.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    /// The local part without quoting.
    pub fn local(&self) -> &str {
        &self.local
    }
    /// The domain.
    pub fn domain(&self) -> &SigningDomain {
        &self.domain
    }
    /// addr-spec for SMTP and headers: the local part quoted again where it must be.
    pub fn address(&self) -> String {
        todo!()
    }
    /// True if the local part has non-ASCII characters, so that SMTPUTF8 is needed (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// Kind and size of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// RSA with a 2048-bit modulus, the default.
    Rsa2048,
    /// RSA with a 3072-bit modulus.
    Rsa3072,
    /// RSA with a 4096-bit modulus.
    Rsa4096,
    /// Ed25519 (RFC 8463).
    Ed25519,
}

impl KeyAlgorithm {
    /// `rsa-2048`, `rsa-3072`, `rsa-4096`, `ed25519`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::Ed25519 => "ed25519",
        }
    }
    /// The reverse of `as_str`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096, Self::Ed25519].into_iter().find(|a| a.as_str() == text)
    }
    /// The a= tag: `rsa-sha256` or `ed25519-sha256`.
    pub fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::Ed25519 => SignatureAlgorithm::Ed25519Sha256,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureAlgorithm::RsaSha256,
        }
    }
}

/// The a= tag (RFC 6376 3.3, RFC 8301, RFC 8463). rsa-sha1 is never signed and never passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaSha256,
    /// PureEdDSA over the SHA-256 of the signing input.
    Ed25519Sha256,
}

impl SignatureAlgorithm {
    /// As in a=.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}
