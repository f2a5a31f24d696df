//! Token keys and their bearers through the engine, by a clock that a test moves.
use super::{HOUR_MS, KEPT_MS, LEAD_MS, LIFE_MS};
use crate::messages::bench::Idle;
use crate::{Clock, Error, Scope};

impl Idle {
    async fn signer(&self) -> String {
        self.engine.token_signing_key().await.unwrap().0
    }

    async fn published(&self) -> Vec<String> {
        self.engine.token_public_keys().await.unwrap().into_iter().map(|key| key.kid).collect()
    }
}

#[tokio::test]
async fn a_successor_is_published_a_day_before_it_signs_and_the_old_key_for_an_hour_after() {
    let bench = Idle::start().await;
    let first = bench.signer().await;
    bench.clock.advance(LIFE_MS - LEAD_MS - 1);
    assert_eq!((bench.signer().await, bench.published().await), (first.clone(), vec![first.clone()]));
    bench.clock.advance(1);
    assert_eq!(bench.signer().await, first, "the successor is made, and does not sign yet");
    let both = bench.published().await;
    assert_eq!((both.len(), &both[0]), (2, &first));
    bench.clock.advance(LEAD_MS - 1);
    assert_eq!(bench.signer().await, first);
    bench.clock.advance(1);
    assert_eq!((bench.signer().await, bench.published().await), (both[1].clone(), both.clone()));
    // A token of the old key's last moment.
    assert!(bench.engine.token_public_key(&first).await.unwrap().is_some());
    bench.clock.advance(KEPT_MS);
    assert_eq!((bench.signer().await, bench.published().await), (both[1].clone(), vec![both[1].clone()]));
    bench.clock.advance(60_000);
    assert!(bench.engine.token_public_key(&first).await.unwrap().is_none());
}

#[tokio::test]
async fn the_bearer_of_a_token_may_do_what_the_token_says_while_its_api_key_may() {
    let bench = Idle::start().await;
    let ends = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(bench.clock.now_ms() + HOUR_MS) * 1_000_000)
        .unwrap()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let scopes = ["sign".to_owned(), "admin".to_owned()];
    let made = bench.engine.create_api_key(&bench.caller, "short", &scopes, Some(&ends)).await.unwrap();
    let bearer = |scopes: &'static [Scope]| bench.engine.authenticate_bearer(&made.row.id, scopes);

    assert_eq!(bearer(&[Scope::Sign]).await.unwrap().scopes, [Scope::Sign]);
    assert_eq!(
        bearer(&[Scope::Sign, Scope::MessagesSend]).await.unwrap().scopes,
        [Scope::Sign],
        "no more than the key"
    );

    let admin = bearer(&[Scope::Admin, Scope::Sign]).await.unwrap();
    let longer = ["sign".to_owned()];
    let refused = bench.engine.create_api_key(&admin, "for ever", &longer, None).await;
    assert!(
        matches!(&refused, Err(Error::Invalid(faults)) if faults[0].pointer.as_deref() == Some("/expires_at")),
        "outlives its maker"
    );
    bench.engine.create_api_key(&admin, "as long", &longer, Some(&ends)).await.unwrap();

    bench.clock.advance(HOUR_MS);
    assert!(matches!(bearer(&[Scope::Sign]).await, Err(Error::Unauthenticated)), "the API key has expired");
}
