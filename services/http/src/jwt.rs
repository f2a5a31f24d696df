//! Access tokens: JWTs (RFC 7519) of the profile for OAuth 2 access tokens (RFC 9068), signed with Ed25519 (RFC 8037).
//!
//! `jsonwebtoken` signs and verifies. What it is lax about (types of claims, `typ`, `kid`, `crit`) is looked at here, in the raw JSON.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};
use signpost_engine::tokens::TokenPublicKey;
use signpost_engine::{Scope, TOKEN_LEEWAY_S, TOKEN_LIFETIME_S};

/// RFC 9068 2.1.
const TYPE: &str = "at+jwt";
/// Longer tokens are none of ours.
const LONGEST: usize = 4_096;
const KID_LONGEST: usize = 64;

/// Who issues tokens, and whom they are for: SIGNPOST_PUBLIC_URL and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Issuer {
    issuer: String,
    audience: String,
}

/// Whom a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    /// `sub`: API-key id.
    pub(crate) key_id: String,
    /// `scope`; what is not a scope of ours says nothing.
    pub(crate) scopes: Vec<Scope>,
}

/// Why a token is not taken. For the log and the tests: the caller learns only that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not three parts of base64url, or no JSON objects.
    Malformed,
    /// Another `typ`, `alg` or `kid` than ours, or `crit`.
    Header,
    /// `kid` is none of our keys.
    UnknownKey,
    Signature,
    /// A claim is missing or of another type or value.
    Claim(&'static str),
    Expired,
}

impl Issuer {
    /// `public_url` without a final slash.
    pub(crate) fn new(public_url: &str) -> Self {
        let issuer = public_url.trim_end_matches('/').to_owned();
        Self { audience: format!("{issuer}/v1"), issuer }
    }

    /// A token for this key, good for 15 minutes from `now` (seconds).
    pub(crate) fn issue(
        &self,
        (kid, pkcs8): (&str, &[u8]),
        key_id: &str,
        scopes: &[Scope],
        (jti, now): (&str, i64),
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid.to_owned());
        let claims = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "sub": key_id,
            "client_id": key_id,
            "scope": scope_text(scopes),
            "iat": now,
            "exp": now + TOKEN_LIFETIME_S,
            "jti": jti,
        });
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(pkcs8))
    }

    /// The claims of a token that `key` signed and that is good at `now` (seconds). RFC 9068 4.
    pub(crate) fn verify(&self, token: &str, key: &TokenPublicKey, now: i64) -> Result<Claims, Refused> {
        if kid(token)? != key.kid {
            return Err(Refused::UnknownKey);
        }
        // What the library checks of claims goes by its own clock, and takes what RFC 7519 does not: only the signature is its part.
        let mut signature_only = Validation::new(Algorithm::EdDSA);
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        signature_only.required_spec_claims.clear();
        let verified =
            jsonwebtoken::decode::<Value>(token, &DecodingKey::from_ed_der(&key.public_key), &signature_only);
        let verified = verified.map_err(|error| match error.kind() {
            ErrorKind::Json(_) => Refused::Malformed,
            _ => Refused::Signature,
        })?;
        let Value::Object(claims) = verified.claims else { return Err(Refused::Malformed) };
        self.check(&claims, now)
    }

    fn check(&self, claims: &Map<String, Value>, now: i64) -> Result<Claims, Refused> {
        let text = |name: &'static str| claims.get(name).and_then(Value::as_str).ok_or(Refused::Claim(name));
        if text("iss")? != self.issuer {
            return Err(Refused::Claim("iss"));
        }
        if text("aud")? != self.audience {
            return Err(Refused::Claim("aud"));
        }
        let key_id = text("sub")?;
        if key_id.is_empty() || key_id.len() > 64 || !key_id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Refused::Claim("sub"));
        }
        // Whole seconds from 0 on; a text, a fraction or a negative number is no time of ours.
        let time = |name: &'static str| match claims.get(name) {
            None => Ok(None),
            Some(value) => {
                value.as_u64().and_then(|time| i64::try_from(time).ok()).map(Some).ok_or(Refused::Claim(name))
            }
        };
        let expires = time("exp")?.ok_or(Refused::Claim("exp"))?;
        if now >= expires.saturating_add(TOKEN_LEEWAY_S) {
            return Err(Refused::Expired);
        }
        for name in ["iat", "nbf"] {
            if time(name)?.is_some_and(|time| time > now.saturating_add(TOKEN_LEEWAY_S)) {
                return Err(Refused::Claim(name));
            }
        }
        let scopes = text("scope")?.split(' ').filter_map(Scope::parse).collect();
        Ok(Claims { key_id: key_id.to_owned(), scopes })
    }
}

/// True for what may be a token; an API key never is.
pub(crate) fn looks_like(token: &str) -> bool {
    !token.starts_with("sp_") && token.bytes().filter(|b| *b == b'.').count() == 2
}

/// The name of the key in a token's header, which is otherwise as ours are. Nothing else in it is followed: not `jku`, `jwk`, `x5u`.
pub(crate) fn kid(token: &str) -> Result<String, Refused> {
    if token.len() > LONGEST {
        return Err(Refused::Malformed);
    }
    let encoded = token.split('.').next().unwrap_or_default();
    let octets = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Refused::Malformed)?;
    let header: Map<String, Value> = serde_json::from_slice(&octets).map_err(|_| Refused::Malformed)?;
    let text = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or_default();
    // RFC 9068 4: the prefix `application/` may be there; media types have no case.
    let kind = text("typ").to_ascii_lowercase();
    let typed = kind.strip_prefix("application/").unwrap_or(&kind) == TYPE;
    let kid = text("kid");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let named = !kid.is_empty() && kid.len() <= KID_LONGEST && kid.bytes().all(plain);
    // RFC 7515 4.1.11: what is critical must be understood, and we understand no extension.
    if !typed || !named || text("alg") != "EdDSA" || header.contains_key("crit") {
        return Err(Refused::Header);
    }
    Ok(kid.to_owned())
}

/// `scope` of RFC 6749 3.3.
pub(crate) fn scope_text(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

/// A key of the JWK set (RFC 7517 4, RFC 8037 2).
pub(crate) fn jwk(key: &TokenPublicKey) -> Value {
    json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": key.kid,
        "x": URL_SAFE_NO_PAD.encode(&key.public_key),
    })
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
