//! Names parsed once: a value of these types cannot be wrong.
use std::fmt;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::address;

/// Why a name was refused. The text is for people and safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

impl NameError {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Octets of a label (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;
/// Octets of a name in its text form (RFC 1035 2.3.4, less the length octets).
const NAME_MAX: usize = 253;
/// U-labels are longer in UTF-8 than as A-labels; nothing above this can shrink to 253, and IDNA work stays small.
const UNICODE_NAME_MAX: usize = 4 * NAME_MAX;
/// Octets of a local part (RFC 5321 4.5.3.1.1).
const LOCAL_MAX: usize = 64;

/// A domain name as used in d=, lower-case A-labels, no trailing dot (RFC 6376 3.5, RFC 5890).
/// LDH labels of 1-63 octets, at least two labels, at most 253 octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SigningDomain(String);

impl SigningDomain {
    /// Accepts U-labels and A-labels in any case, one optional trailing dot. Address literals, single labels,
    /// empty labels, underscores and hyphens at a label's edge are errors.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::new("the domain name is empty"));
        }
        if text.len() > UNICODE_NAME_MAX {
            return Err(NameError::new("the domain name is longer than 253 octets"));
        }
        if text.starts_with('[') {
            return Err(NameError::new("an address literal in brackets is not a domain name"));
        }
        let ascii = Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::VerifyAllowRootDot)
            .map_err(|_| {
                NameError::new(
                    "not a valid domain name: labels are 1 to 63 letters, digits and inner hyphens, \
                     or a valid internationalized label (RFC 5890)",
                )
            })?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.len() > NAME_MAX {
            return Err(NameError::new("the domain name is longer than 253 octets"));
        }
        // IDNA has checked all of this; a signing domain goes into DNS names and header fields, so it is checked once more.
        if !name.split('.').all(is_ldh_label) {
            return Err(NameError::new("not a valid domain name: a label is not letters, digits and inner hyphens"));
        }
        let Some((_, last)) = name.rsplit_once('.') else {
            return Err(NameError::new("a domain name needs at least two labels, such as example.com"));
        };
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NameError::new("an IP address is not a domain name"));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The A-label form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if `self` equals `other` or lies below it; compared label-wise.
    pub fn is_at_or_below(&self, other: &SigningDomain) -> bool {
        match self.0.strip_suffix(other.as_str()) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }

    /// `self`, then each ancestor with at least two labels, nearest first.
    pub fn self_and_ancestors(&self) -> Vec<SigningDomain> {
        let mut names = vec![self.clone()];
        let mut rest = self.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if parent.contains('.') {
                names.push(Self(parent.to_owned()));
            }
            rest = parent;
        }
        names
    }
}

impl fmt::Display for SigningDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 5321 4.1.2 sub-domain.
fn is_ldh_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= LABEL_MAX
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A selector (RFC 6376 3.1): dot-separated LDH labels, lower-case, each 1-63 octets, no hyphen at an edge, no underscore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(String);

impl Selector {
    /// Strict: what we create. (On verify any selector text is looked up, see `verify`.)
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_MAX {
            return Err(NameError::new("the selector is longer than 253 octets"));
        }
        if !text.split('.').all(is_ldh_label) {
            return Err(NameError::new(
                "a selector is one or more labels of letters, digits and inner hyphens, 1 to 63 octets each, \
                 separated by single dots (RFC 6376 3.1)",
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The text as it stands in s=.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `<selector>._domainkey.<domain>` (RFC 6376 3.6.2.1).
    pub fn record_name(&self, domain: &SigningDomain) -> String {
        format!("{self}._domainkey.{domain}")
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
    pub fn new(name: Option<&str>, local: &str, domain: SigningDomain) -> Result<Self, NameError> {
        if local.is_empty() {
            return Err(NameError::new("the local part (before @) is empty"));
        }
        if local.len() > LOCAL_MAX {
            return Err(NameError::new("the local part (before @) is longer than 64 octets (RFC 5321 4.5.3.1.1)"));
        }
        if local.chars().any(char::is_control) {
            return Err(NameError::new("the local part (before @) has a control character"));
        }
        // A decoder that is run over the whole field would read another address here (RFC 2047 5 rule 3).
        if local.contains("=?") {
            return Err(NameError::new("the address has an encoded-word inside (RFC 2047 5 rule 3)"));
        }
        if name.is_some_and(|n| n.chars().any(char::is_control)) {
            return Err(NameError::new("the display name has a control character"));
        }
        let name = name.map(str::trim).filter(|n| !n.is_empty());
        Ok(Self { name: name.map(str::to_owned), local: local.to_owned(), domain })
    }

    /// The bare address form `local@domain` of RFC 5321 Mailbox (quoted local part allowed); no display name, no angle brackets, no comments.
    pub fn parse_address(text: &str) -> Result<Self, NameError> {
        address::parse_bare(text)
    }

    /// `Ann <ann@example.com>`, `"A, B" <ab@example.com>` or the bare address. U-label domains become A-labels.
    /// CR and LF are refused even as a fold: this is the form of one JSON string, not of a header field.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains(['\r', '\n', '\0']) {
            return Err(NameError::new("the address has a CR, LF or NUL character"));
        }
        address::parse_mailbox(text)
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

    /// addr-spec for SMTP and headers: the local part quoted again where it must be (RFC 5321 4.1.2, RFC 6531 3.3).
    pub fn address(&self) -> String {
        if address::is_dot_atom(&self.local) {
            return format!("{}@{}", self.local, self.domain);
        }
        let mut quoted = String::with_capacity(self.local.len() + 2);
        for c in self.local.chars() {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        format!("\"{quoted}\"@{}", self.domain)
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

    /// As in k= of the key record.
    pub fn key_type(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa",
            Self::Ed25519Sha256 => "ed25519",
        }
    }
}
