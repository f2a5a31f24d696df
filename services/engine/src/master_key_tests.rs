//! A change of the master key through the engine, with other processes as further engines on the same store.
use super::{ChangeBegun, OnlyInMemory, PASS_PAUSE_MS, SealedCounts};
use crate::messages::bench::{Bench, Idle};
use crate::{Caller, Engine, Error, MasterKeyState};
use signpost_keys::{MasterKey, SystemRandom};
use signpost_store::Resealed;

fn text() -> String {
    MasterKey::generate(&SystemRandom).to_base64().to_string()
}

fn key(text: &str) -> Option<MasterKey> {
    Some(MasterKey::from_base64(text).unwrap())
}

async fn offer(engine: &Engine, current: Option<&str>, next: Option<&str>) -> MasterKeyState {
    engine.offer_master_keys(current.and_then(key), next.and_then(key)).await.unwrap()
}

async fn counts(engine: &Engine) -> (i64, i64, i64) {
    let SealedCounts { under_in_use, under_former, under_others, .. } = engine.sealed_counts().await.unwrap();
    (under_in_use, under_former, under_others)
}

/// Signs with the domain's key as it is stored now.
async fn signs(bench: &Bench, engine: &Engine) -> bool {
    let id = bench.send_through(engine, None).await;
    bench.message(&id).await.status == "queued"
}

async fn authenticates(engine: &Engine, token: &str) -> Result<Caller, Error> {
    engine.authenticate(token).await
}

#[tokio::test]
async fn everything_moves_to_the_next_key_and_works_without_the_former_one() {
    let bench = Bench::start().await;
    let (old, new) = (bench.master_key(), text());
    let scopes = ["sign".to_owned()];
    let token = bench.engine.create_api_key(&bench.caller, "k", &scopes, None).await.unwrap().token;
    let (kid, token_key) = bench.engine.token_signing_key().await.unwrap();
    bench.further_key().await;
    assert_eq!(counts(&bench.engine).await, (3, 0, 0));
    assert_eq!(bench.engine.begin_master_key_change().await.unwrap(), ChangeBegun::NoNextKey);
    assert_eq!(offer(&bench.engine, Some(&old), Some(&old)).await, MasterKeyState::Unsealed);
    assert_eq!(bench.engine.begin_master_key_change().await.unwrap(), ChangeBegun::InUseAlready);
    assert_eq!(offer(&bench.engine, Some(&old), Some(&new)).await, MasterKeyState::Unsealed);
    assert_eq!(bench.engine.begin_master_key_change().await.unwrap(), ChangeBegun::Begun);

    // Not heard of yet: it goes on with the old one, and what it makes now is moved too.
    bench.further_key().await;
    assert!(signs(&bench, &bench.engine).await);
    assert_eq!(offer(&bench.engine, Some(&old), Some(&new)).await, MasterKeyState::Unsealed);
    assert_eq!(bench.engine.begin_master_key_change().await.unwrap(), ChangeBegun::UnderWay);
    assert_eq!(counts(&bench.engine).await, (0, 4, 0));
    bench.further_key().await;
    assert_eq!(counts(&bench.engine).await, (1, 4, 0), "new keys are sealed under the new one");
    assert!(signs(&bench, &bench.engine).await);

    // Half of it is done: no process can do with one of the two.
    bench.engine.reseal().await.unwrap();
    assert_eq!(counts(&bench.engine).await, (4, 1, 0), "the key of tokens is left");
    for (current, state) in [(&new, MasterKeyState::FormerMissing), (&old, MasterKeyState::Sealed)] {
        let other = bench.sealed();
        assert_eq!(offer(&other, Some(current), None).await, state);
        assert!(matches!(other.readiness().await, Err(Error::Sealed)));
        assert!(matches!(authenticates(&other, &token).await, Err(Error::Sealed)));
        assert!(matches!(other.begin_master_key_change().await, Err(Error::Sealed)));
        other.reseal().await.unwrap();
    }
    assert_eq!(counts(&bench.engine).await, (4, 1, 0), "a sealed process changes nothing");

    // Another process goes on where this one stopped, whichever file is which.
    let other = bench.sealed();
    assert_eq!(offer(&other, Some(&new), Some(&old)).await, MasterKeyState::Unsealed);
    other.reseal().await.unwrap();
    other.reseal().await.unwrap();
    let only_new = bench.sealed();
    assert_eq!(offer(&only_new, Some(&new), None).await, MasterKeyState::Unsealed);
    assert_eq!(counts(&only_new).await, (5, 0, 0));
    assert!(signs(&bench, &only_new).await);
    authenticates(&only_new, &token).await.unwrap();
    let (kid_now, token_key_now) = only_new.token_signing_key().await.unwrap();
    assert_eq!((kid_now, token_key_now.pkcs8()), (kid, token_key.pkcs8()));
    let only_old = bench.sealed();
    assert_eq!(offer(&only_old, Some(&old), None).await, MasterKeyState::Sealed);
}

#[tokio::test]
async fn api_keys_outlive_every_master_key() {
    let idle = Idle::start().await;
    let scopes = ["sign".to_owned()];
    let mut tokens = Vec::new();
    let mut current = text();
    // The one that the bench begins with is known to the engine already.
    let first = current.clone();
    assert_eq!(offer(&idle.engine, None, Some(&current)).await, MasterKeyState::Unsealed);
    for next in [text(), text(), first, text()] {
        assert_eq!(idle.engine.begin_master_key_change().await.unwrap(), ChangeBegun::Begun);
        assert_eq!(offer(&idle.engine, None, Some(&current)).await, MasterKeyState::Unsealed);
        idle.engine.reseal().await.unwrap();
        tokens.push(idle.engine.create_api_key(&idle.caller, "k", &scopes, None).await.unwrap().token);
        idle.engine.token_signing_key().await.unwrap();
        assert_eq!(offer(&idle.engine, Some(&current), Some(&next)).await, MasterKeyState::Unsealed);
        for token in &tokens {
            authenticates(&idle.engine, token).await.unwrap();
        }
        current = next;
    }
}

#[tokio::test]
async fn a_key_that_does_not_open_keeps_the_former_master_key_needed_until_it_is_revoked() {
    let bench = Bench::start().await;
    let (old, new) = (bench.master_key(), text());
    let damaged = bench.further_key().await;
    let mut octets = damaged.sealed.clone();
    *octets.last_mut().unwrap() ^= 1;
    let change = Resealed {
        tenant_id: damaged.tenant_id.clone(),
        key_id: damaged.id.clone(),
        old: damaged.sealed.clone(),
        new: octets,
    };
    assert_eq!(bench.engine.inner.store.replace_sealed(vec![change]).await.unwrap(), 1);
    bench.further_key().await;
    offer(&bench.engine, Some(&old), Some(&new)).await;
    bench.engine.begin_master_key_change().await.unwrap();
    offer(&bench.engine, Some(&old), Some(&new)).await;
    for _ in 0..3 {
        bench.engine.reseal().await.unwrap();
    }
    assert_eq!(counts(&bench.engine).await, (2, 1, 0), "the others moved");
    assert_eq!(offer(&bench.sealed(), Some(&new), None).await, MasterKeyState::FormerMissing);
    bench.engine.revoke_key(&bench.caller, &damaged.id).await.unwrap();
    bench.engine.reseal().await.unwrap();
    assert_eq!(offer(&bench.sealed(), Some(&new), None).await, MasterKeyState::FormerMissing, "it rests");
    bench.advance(PASS_PAUSE_MS);
    bench.engine.reseal().await.unwrap();
    assert_eq!(offer(&bench.sealed(), Some(&new), None).await, MasterKeyState::Unsealed);
}

#[tokio::test]
async fn a_process_that_did_not_hear_of_the_end_stores_nothing_under_the_former_key() {
    let bench = Bench::start().await;
    let (old, new) = (bench.master_key(), text());
    let deaf = bench.sealed();
    offer(&deaf, Some(&old), None).await;
    offer(&bench.engine, Some(&old), Some(&new)).await;
    bench.engine.begin_master_key_change().await.unwrap();
    offer(&bench.engine, Some(&old), Some(&new)).await;
    for _ in 0..2 {
        bench.engine.reseal().await.unwrap();
    }
    let new_key = crate::domains::NewKey { algorithm: Some("ed25519".into()), custody: None };
    let refused = deaf.create_domain_key(&bench.caller, &bench.domain, &new_key).await.map(|_| ());
    assert!(matches!(refused, Err(Error::StoreUnavailable)), "{refused:?}");
    assert!(matches!(deaf.token_signing_key().await, Err(Error::StoreUnavailable)));
    assert_eq!(offer(&deaf, Some(&old), None).await, MasterKeyState::Sealed);
    assert!(matches!(deaf.create_domain_key(&bench.caller, &bench.domain, &new_key).await, Err(Error::Sealed)));
    assert_eq!(counts(&bench.engine).await.1, 0);
}

#[tokio::test]
async fn a_worker_that_slept_through_a_change_there_and_back_loses_no_key() {
    let bench = Bench::start().await;
    let (old, new) = (bench.master_key(), text());
    let sleeper = bench.sealed();
    let mut sleeps = false;
    for (from, to) in [(&old, &new), (&new, &old)] {
        offer(&bench.engine, Some(from), Some(to)).await;
        bench.engine.begin_master_key_change().await.unwrap();
        offer(&bench.engine, Some(from), Some(to)).await;
        if !std::mem::replace(&mut sleeps, true) {
            offer(&sleeper, Some(from), Some(to)).await;
        }
        for _ in 0..2 {
            bench.engine.reseal().await.unwrap();
        }
        assert_eq!(counts(&bench.engine).await.1, 0);
    }
    let moved = sleeper.reseal().await;
    assert!(matches!(moved, Err(Error::StoreUnavailable)), "{moved:?}");
    assert_eq!(counts(&bench.engine).await, (1, 0, 0));
    assert_eq!(offer(&sleeper, Some(&old), Some(&new)).await, MasterKeyState::Unsealed);
    sleeper.reseal().await.unwrap();
    assert!(signs(&bench, &sleeper).await);
}

#[tokio::test]
async fn a_needed_key_that_is_offered_no_more_is_told_of_while_it_is_known_still() {
    let bench = Bench::start().await;
    let (old, new) = (bench.master_key(), text());
    let name = |text: &str| key(text).map(|key| key.name_in_hex());
    let gone = |in_use: Option<&str>, former: Option<&str>| {
        let named = |text: Option<&str>| text.and_then(name);
        Some(OnlyInMemory { in_use: named(in_use), former: named(former) })
    };
    let engine = &bench.engine;
    let told = async |current: Option<&str>, next: Option<&str>| {
        assert_eq!(offer(engine, current, next).await, MasterKeyState::Unsealed);
        let first = engine.readiness().await.unwrap();
        assert_eq!(offer(engine, current, next).await, MasterKeyState::Unsealed);
        (first, engine.readiness().await.unwrap())
    };
    let (old, new) = (Some(old.as_str()), Some(new.as_str()));
    assert_eq!(told(old, new).await, (None, None));
    assert_eq!(told(None, None).await, (None, gone(old, None)), "once is a file that is being moved");
    assert_eq!(told(new, old).await, (None, None), "which file holds it does not matter");
    assert_eq!(told(old, new).await, (None, None));
    assert_eq!(engine.begin_master_key_change().await.unwrap(), ChangeBegun::Begun);
    assert_eq!(told(old, new).await, (None, None));
    assert_eq!(told(new, None).await, (None, gone(None, old)));
    assert_eq!(told(old, None).await.1, gone(new, None));
    assert_eq!(told(None, None).await, (gone(new, None), gone(new, old)));
    assert_eq!(told(old, new).await, (None, None));
    for _ in 0..2 {
        engine.reseal().await.unwrap();
    }
    assert_eq!(told(old, None).await, (None, gone(new, None)), "the wrong one of both was kept");
    bench.advance(super::REMEMBERED_MS);
    assert_eq!(told(old, None).await, (gone(new, None), gone(new, None)), "a needed key is not forgotten");
    assert_eq!(told(new, None).await, (None, None), "the former one is needed no more");
    let sealed = bench.sealed();
    for _ in 0..3 {
        assert_eq!(offer(&sealed, old, None).await, MasterKeyState::Sealed);
        assert_eq!(sealed.keys_only_in_memory(), None, "it never knew it");
    }
}
