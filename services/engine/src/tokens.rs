//! Access tokens: the keys that sign them, shared by all processes, and what the bearer of one may do. Their format is the API's.
use crate::{Caller, Engine, Error, Scope, ids};
use signpost_keys::TokenKey;
use signpost_store::TokenKeyRow;
use std::sync::{Arc, PoisonError, RwLock};

const HOUR_MS: i64 = 3_600_000;
/// A key signs for so long.
const LIFE_MS: i64 = 30 * 24 * HOUR_MS;
/// Its successor is published so long before it signs: longer than any process or client keeps the list.
const LEAD_MS: i64 = 24 * HOUR_MS;
/// A key stays published so long after its successor began to sign: longer than its last token is good.
const KEPT_MS: i64 = HOUR_MS;
/// The list of keys is read again after so long.
const GOOD_MS: i64 = 60_000;
/// A `kid` that is not on the list makes it be read again, at most so often.
const UNKNOWN_MS: i64 = 1_000;
const KID_LENGTH: usize = 20;

// The overlap is longer than anything that is kept.
const _: () = assert!(KEPT_MS > 1_000 * (crate::TOKEN_LIFETIME_S + crate::TOKEN_LEEWAY_S) + GOOD_MS);
const _: () = assert!(LEAD_MS > GOOD_MS && LIFE_MS > LEAD_MS + KEPT_MS);

/// The list as it was last read, and when.
#[derive(Default)]
pub(crate) struct KnownTokenKeys(RwLock<Option<(i64, Arc<Vec<TokenKeyRow>>)>>);

/// The public half of a key that signs access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPublicKey {
    /// Names it in the header of a token.
    pub kid: String,
    /// Ed25519, 32 octets (RFC 8032 5.1.5).
    pub public_key: Vec<u8>,
}

impl From<&TokenKeyRow> for TokenPublicKey {
    fn from(row: &TokenKeyRow) -> Self {
        Self { kid: row.kid.clone(), public_key: row.public_key.clone() }
    }
}

impl Engine {
    /// The keys whose tokens are good, and the one that will sign next. `StoreUnavailable`.
    pub async fn token_public_keys(&self) -> Result<Vec<TokenPublicKey>, Error> {
        Ok(self.known_token_keys(GOOD_MS).await?.iter().map(TokenPublicKey::from).collect())
    }

    /// The key of this name, if it is one of ours. `StoreUnavailable`.
    pub async fn token_public_key(&self, kid: &str) -> Result<Option<TokenPublicKey>, Error> {
        let find = |rows: &[TokenKeyRow]| rows.iter().find(|row| row.kid == kid).map(TokenPublicKey::from);
        match find(&self.known_token_keys(GOOD_MS).await?) {
            Some(key) => Ok(Some(key)),
            // Another process may have made it a moment ago.
            None => Ok(find(&self.known_token_keys(UNKNOWN_MS).await?)),
        }
    }

    /// The key that signs now. Makes the first one, and successors in time. `Sealed`, `StoreUnavailable`.
    pub async fn token_signing_key(&self) -> Result<(String, TokenKey), Error> {
        if self.is_sealed() {
            return Err(Error::Sealed);
        }
        let mut rows = self.known_token_keys(GOOD_MS).await?;
        if Plan::of(&rows, self.now_ms()).successor.is_some() {
            // The list may be a minute old.
            rows = self.read_token_keys().await?;
        }
        let plan = Plan::of(&rows, self.now_ms());
        if let Some((number, signs_from)) = plan.successor {
            let kid = ids::random_text(self.inner.random.as_ref(), KID_LENGTH);
            let made = self.inner.sealed.make_token_key(&kid)?;
            let row = TokenKeyRow { number, kid, public_key: made.public_key, sealed: made.sealed, signs_from };
            self.inner.store.insert_token_key(&row).await?;
            rows = self.read_token_keys().await?;
        }
        if let Some(number) = plan.delete_before {
            self.inner.store.delete_token_keys_before(number).await?;
            rows = self.read_token_keys().await?;
        }
        let signer = signer(&rows, self.now_ms());
        let row = signer.ok_or_else(|| Error::Internal("a token key was stored and is not there".into()))?;
        Ok((row.kid.clone(), self.inner.sealed.open_token_key(&row.kid, &row.sealed, &row.public_key)?))
    }

    /// Who bears a token that was issued to this API key for these scopes. The key and its tenant are read now, so that revocation,
    /// expiry and suspension do not wait for the token's end. `Unauthenticated`, `TenantSuspended`, `StoreUnavailable`.
    pub async fn authenticate_bearer(&self, key_id: &str, scopes: &[Scope]) -> Result<Caller, Error> {
        let mut caller = self.caller_of(key_id).await?;
        caller.scopes.retain(|scope| scopes.contains(scope));
        Ok(caller)
    }

    async fn known_token_keys(&self, good_ms: i64) -> Result<Arc<Vec<TokenKeyRow>>, Error> {
        let now = self.now_ms();
        let known = self.inner.token_keys.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some((at, rows)) if (0..good_ms).contains(&(now - at)) && !rows.is_empty() => Ok(rows),
            Some(_) | None => self.read_token_keys().await,
        }
    }

    async fn read_token_keys(&self) -> Result<Arc<Vec<TokenKeyRow>>, Error> {
        let now = self.now_ms();
        let rows = Arc::new(self.inner.store.token_keys().await?);
        let mut known = self.inner.token_keys.0.write().unwrap_or_else(PoisonError::into_inner);
        *known = Some((now, Arc::clone(&rows)));
        Ok(rows)
    }
}

/// The newest key whose time has come; the first one where the clocks of two processes differ.
fn signer(rows: &[TokenKeyRow], now: i64) -> Option<&TokenKeyRow> {
    rows.iter().rev().find(|row| row.signs_from <= now).or(rows.first())
}

/// What is to be done with the keys now.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Number and `signs_from` of a key to be made.
    successor: Option<(i64, i64)>,
    /// Keys before this number have no good token left.
    delete_before: Option<i64>,
}

impl Plan {
    fn of(rows: &[TokenKeyRow], now: i64) -> Self {
        let successor = match rows.last() {
            None => Some((1, now)),
            Some(newest) if newest.signs_from + LIFE_MS - LEAD_MS <= now => {
                Some((newest.number + 1, (newest.signs_from + LIFE_MS).max(now + LEAD_MS)))
            }
            Some(_) => None,
        };
        let signer = signer(rows, now).filter(|signer| signer.signs_from + KEPT_MS <= now);
        let delete_before = signer
            .filter(|signer| rows.first().is_some_and(|first| first.number < signer.number))
            .map(|row| row.number);
        Self { successor, delete_before }
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod through_the_engine;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(signs_from: &[i64]) -> Vec<TokenKeyRow> {
        let row = |(number, signs_from): (i64, &i64)| TokenKeyRow {
            number,
            kid: format!("k{number}"),
            public_key: vec![],
            sealed: vec![],
            signs_from: *signs_from,
        };
        (1..).zip(signs_from).map(row).collect()
    }

    #[test]
    fn keys_follow_each_other_published_before_and_kept_after_they_sign() {
        let start = 1_000_000;
        let second = start + LIFE_MS;
        let idle = start + 10 * LIFE_MS;
        // (keys, now, number of the signer, successor, delete before)
        for (signs_from, now, signs, successor, delete_before) in [
            (vec![], start, None, Some((1, start)), None),
            (vec![start], start, Some(1), None, None),
            (vec![start], start - 5, Some(1), None, None),
            (vec![start], second - LEAD_MS - 1, Some(1), None, None),
            (vec![start], second - LEAD_MS, Some(1), Some((2, second)), None),
            (vec![start, second], second - 1, Some(1), None, None),
            (vec![start, second], second, Some(2), None, None),
            (vec![start, second], second + KEPT_MS - 1, Some(2), None, None),
            (vec![start, second], second + KEPT_MS, Some(2), None, Some(2)),
            (vec![start], idle, Some(1), Some((2, idle + LEAD_MS)), None),
        ] {
            let rows = keys(&signs_from);
            assert_eq!(signer(&rows, now).map(|row| row.number), signs, "{signs_from:?} at {now}");
            assert_eq!(Plan::of(&rows, now), Plan { successor, delete_before }, "{signs_from:?} at {now}");
        }
    }
}
