//! The table of states.
use super::*;

const HOUR: i64 = 3_600_000;

fn key(id: &str, state: &str, created_at: i64) -> KeyRow {
    KeyRow {
        id: id.into(),
        tenant_id: "t".into(),
        domain_id: "d".into(),
        domain_name: "example.com".into(),
        selector: id.into(),
        algorithm: if id.starts_with("ed") { "ed25519" } else { "rsa-2048" }.into(),
        custody: "sealed".into(),
        reference: format!("sealed:{id}"),
        sealed: vec![],
        public_key: format!("p of {id}"),
        state: state.into(),
        published_p: None,
        published_read_at: None,
        published_tried_at: None,
        life: KeyLife::default(),
        created_at,
    }
}

fn keys(states: &[(&str, &str)]) -> Vec<KeyRow> {
    let keys = (0_i64..).zip(states).map(|(at, (id, state))| key(id, state, at));
    // Its record was right when it was last read.
    keys.map(|key| KeyRow { published_p: (key.state != PENDING).then(|| key.public_key.clone()), ..key }).collect()
}

fn seen(id: &str, right: bool) -> Sighting {
    let p = if right { format!("p of {id}") } else { String::new() };
    Sighting { key_id: id.into(), answer: Some((right, p)), other: false, ttl_ms: None }
}

fn circumstances(sightings: &[Sighting], signs: bool) -> Circumstances<'_> {
    Circumstances { sightings, signs, dual: false, barred: &[], revoke: &[], now: HOUR }
}

/// As `id:from>to`.
fn told(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| format!("{}:{}>{}", step.key_id, step.from, step.to)).collect()
}

/// (keys before as id and state, seen right, domain signs, steps)
#[test]
fn a_key_is_published_when_seen_and_activated_when_the_domain_signs() {
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], bool, &'static [&'static str]);
    let cases: [Case; 14] = [
        (&[("a", PENDING)], &[], false, &[]),
        (&[("a", PENDING)], &["a"], false, &["a:pending>published"]),
        (&[("a", PUBLISHED)], &[], false, &[]),
        (&[("a", PUBLISHED)], &[], true, &["a:published>active"]),
        (&[("a", PENDING)], &["a"], true, &["a:pending>published", "a:published>active"]),
        (&[("a", ACTIVE), ("b", PENDING)], &[], true, &[]),
        (&[("a", ACTIVE), ("b", PENDING)], &["a"], true, &[]),
        (
            &[("a", ACTIVE), ("b", PENDING)],
            &["a", "b"],
            true,
            &["b:pending>published", "a:active>retiring", "b:published>active"],
        ),
        (&[("a", ACTIVE), ("b", PENDING)], &["a", "b"], false, &["b:pending>published"]),
        (
            &[("a", ACTIVE), ("b", PENDING), ("c", PENDING)],
            &["b", "c"],
            true,
            &["b:pending>published", "c:pending>published", "a:active>retiring", "c:published>active"],
        ),
        (&[("a", PENDING), ("b", ACTIVE)], &["a"], true, &["a:pending>published"]),
        (&[("a", PUBLISHED), ("b", ACTIVE)], &["a", "b"], true, &[]),
        (&[("a", REVOKED), ("b", RETIRED)], &["a", "b"], true, &[]),
        (&[("a", RETIRING), ("b", RETIRED)], &["a", "b"], true, &[]),
    ];
    for (before, right, signs, expected) in cases {
        let sightings: Vec<_> = right.iter().map(|id| seen(id, true)).collect();
        let got = steps(&keys(before), &circumstances(&sightings, signs));
        assert_eq!(told(&got), expected, "before {before:?} seen {right:?} signs {signs}");
    }
}

/// H01: signing goes on with the old key for as long as the new one is not seen, whatever else DNS says.
#[test]
fn nothing_but_the_right_record_makes_a_key_sign() {
    let unknown = Sighting { answer: None, ..seen("b", false) };
    for state in [PENDING, PUBLISHED] {
        for sighting in [seen("b", false), unknown.clone(), Sighting { other: true, ..unknown.clone() }] {
            let keys = keys(&[("a", ACTIVE), ("b", state)]);
            let got = steps(&keys, &circumstances(std::slice::from_ref(&sighting), true));
            assert_eq!(told(&got), [""; 0], "{state} {sighting:?}");
        }
    }
    // Right once, and wrong when it was last read.
    let mut keys = keys(&[("a", ACTIVE), ("b", PUBLISHED)]);
    keys[1].published_p = Some(String::new());
    assert_eq!(steps(&keys, &circumstances(&[], true)), []);
}

#[test]
fn no_failure_to_ask_changes_a_state() {
    let all = [("a", PENDING), ("b", PUBLISHED), ("c", ACTIVE), ("d", RETIRING), ("e", RETIRED), ("f", REVOKED)];
    let sightings: Vec<_> = all.iter().map(|(id, _)| Sighting { answer: None, ..seen(id, false) }).collect();
    assert_eq!(steps(&keys(&all), &circumstances(&sightings, true)), []);
    let wrong: Vec<_> = all.iter().map(|(id, _)| seen(id, false)).collect();
    assert_eq!(steps(&keys(&all), &circumstances(&wrong, true)), [], "nor does a wrong record");
}

#[test]
fn a_name_that_held_other_data_is_waited_for_until_caches_are_clean() {
    let mut keys = keys(&[("a", ACTIVE), ("b", PENDING)]);
    let wrong = Sighting { other: true, ttl_ms: Some(300_000), ..seen("b", false) };
    keys[1].life = life_after_sighting(&keys[1], &wrong, 1000);
    assert_eq!(keys[1].life.other_data_until, Some(301_000));
    let right = [Sighting { ttl_ms: Some(60_000), ..seen("b", true) }];
    let at = |keys: &[KeyRow], now| told(&steps(keys, &Circumstances { now, ..circumstances(&right, true) }));
    assert_eq!(at(&keys, 2000), ["b:pending>published"]);
    assert_eq!(at(&keys, 300_999), ["b:pending>published"]);
    assert_eq!(at(&keys, 301_000), ["b:pending>published", "a:active>retiring", "b:published>active"]);
    keys[1].life = life_after_sighting(&keys[1], &right[0], 2000);
    assert_eq!((keys[1].life.first_seen_at, keys[1].life.record_ttl), (Some(2000), Some(60_000)));
    assert_eq!(keys[1].life.other_data_until, Some(301_000), "the right record takes nothing out of caches");
    // A shorter TTL seen later does not shorten it, and an unknown or absurd one is bounded.
    let later = |ttl_ms| life_after_sighting(&keys[1], &Sighting { ttl_ms, ..wrong.clone() }, 3000).other_data_until;
    assert_eq!(later(Some(1000)), Some(301_000));
    assert_eq!(later(None), Some(3000 + UNKNOWN_TTL_MS));
    assert_eq!(later(Some(i64::from(u32::MAX) * 1000)), Some(3000 + LONGEST_TTL_MS));
    // Nothing at the name is nothing in caches: nobody has asked for a selector that nothing was signed with.
    let missing = seen("b", false);
    assert_eq!(life_after_sighting(&key("b", PENDING, 0), &missing, 3000).other_data_until, None);
}

#[test]
fn a_key_that_fails_its_test_does_not_sign() {
    let right = [seen("b", true)];
    let barred = ["b".to_owned()];
    let got = steps(
        &keys(&[("a", ACTIVE), ("b", PENDING)]),
        &Circumstances { barred: &barred, ..circumstances(&right, true) },
    );
    assert_eq!(told(&got), ["b:pending>published"]);
}

#[test]
fn any_key_can_be_revoked_and_the_newest_published_one_takes_over_at_once() {
    for state in [PENDING, PUBLISHED, ACTIVE, RETIRING, RETIRED] {
        let circumstances = Circumstances { revoke: &["a".to_owned()], ..circumstances(&[], true) };
        assert_eq!(told(&steps(&keys(&[("a", state)]), &circumstances)), [format!("a:{state}>revoked")]);
    }
    let revoke = |before: &[(&str, &str)], id: &str, signs| {
        told(&steps(&keys(before), &Circumstances { revoke: &[id.to_owned()], ..circumstances(&[], signs) }))
    };
    assert_eq!(revoke(&[("a", REVOKED)], "a", true), [""; 0]);
    let two = [("a", PUBLISHED), ("b", PUBLISHED), ("c", ACTIVE)];
    assert_eq!(revoke(&two, "c", true), ["c:active>revoked", "b:published>active"]);
    assert_eq!(revoke(&two, "c", false), ["c:active>revoked"]);
    assert_eq!(
        revoke(&[("a", RETIRING), ("b", ACTIVE)], "b", true),
        ["b:active>revoked"],
        "a retiring key never signs again"
    );
    assert_eq!(revoke(&[("a", RETIRING), ("b", ACTIVE)], "a", true), ["a:retiring>revoked"]);
}

#[test]
fn a_replaced_key_retires_after_two_lifetimes_of_the_queue_and_a_ttl() {
    let mut keys = keys(&[("a", RETIRING), ("b", ACTIVE)]);
    keys[0].life = life_after_step(KeyLife { record_ttl: Some(HOUR), ..KeyLife::default() }, RETIRING, 10 * HOUR, 5);
    assert_eq!(keys[0].life.retiring_since, Some(5));
    assert_eq!(keys[0].life.safe_to_remove_at, Some(5 + 21 * HOUR));
    let at = |now| told(&steps(&keys, &Circumstances { now, ..circumstances(&[], false) }));
    assert_eq!(at(4 + 21 * HOUR), [""; 0]);
    assert_eq!(at(5 + 21 * HOUR), ["a:retiring>retired"]);
    let unknown = life_after_step(KeyLife::default(), RETIRING, 10 * HOUR, 0);
    assert_eq!(unknown.safe_to_remove_at, Some(20 * HOUR + UNKNOWN_TTL_MS));
}

#[test]
fn the_required_record_is_the_active_keys_or_else_the_newest() {
    let required = |states: &[(&str, &str)], dual| -> Vec<String> {
        required_keys(&keys(states), dual).into_iter().map(|key| key.id.clone()).collect()
    };
    assert_eq!(required(&[("a", RETIRING), ("b", ACTIVE), ("c", PENDING)], false), ["b"]);
    assert_eq!(required(&[("a", PENDING), ("b", PUBLISHED), ("c", PENDING)], false), ["c"]);
    assert_eq!(required(&[("a", REVOKED)], false), [""; 0]);
    assert_eq!(required(&[("a", ACTIVE), ("ed", PENDING)], false), ["a"]);
    // With dual signing one of each kind, as far as there is one.
    assert_eq!(required(&[("a", ACTIVE), ("ed", ACTIVE), ("ed2", PENDING)], true), ["a", "ed"]);
    assert_eq!(required(&[("ed", ACTIVE), ("a", PENDING), ("b", PUBLISHED)], true), ["b", "ed"]);
    assert_eq!(required(&[("ed", REVOKED), ("a", ACTIVE), ("ed2", RETIRING)], true), ["a"]);
}

#[test]
fn a_rotation_is_under_way_while_a_newer_key_is_to_come() {
    let next = |states: &[(&str, &str)]| Place::Any.next(&keys(states)).map(|key| key.id.clone());
    assert_eq!(next(&[("a", ACTIVE), ("b", PENDING)]).as_deref(), Some("b"));
    assert_eq!(next(&[("a", ACTIVE), ("b", PUBLISHED), ("c", REVOKED)]).as_deref(), Some("b"));
    assert_eq!(next(&[("a", PENDING)]).as_deref(), Some("a"));
    assert_eq!(next(&[("a", PENDING), ("b", ACTIVE)]), None, "an older one never replaces it");
    assert_eq!(next(&[("a", RETIRING), ("b", ACTIVE), ("c", RETIRED)]), None);
}

#[test]
fn a_signature_stands_while_its_key_signs_or_retires_and_its_record_is_not_gone() {
    let stands = |state: &str, published: Option<&str>| {
        still_stands(&KeyRow { published_p: published.map(str::to_owned), ..key("a", state, 0) })
    };
    for (state, published, expected) in [
        (ACTIVE, None, true),
        (ACTIVE, Some(""), true),
        (RETIRING, None, true),
        (RETIRING, Some("p of a"), true),
        (RETIRING, Some(""), false),
        (RETIRING, Some("another"), false),
        (PENDING, Some("p of a"), false),
        (PUBLISHED, Some("p of a"), false),
        (RETIRED, Some("p of a"), false),
        (REVOKED, Some("p of a"), false),
    ] {
        assert_eq!(stands(state, published), expected, "{state} {published:?}");
    }
}

/// (keys before as id and state, revoked, steps); the ids of Ed25519 keys begin with `ed`. Every record is seen right and the domain signs.
#[test]
fn with_dual_signing_a_key_takes_the_place_of_one_of_its_own_kind_only() {
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static [&'static str]);
    let cases: [Case; 11] = [
        (&[("a", ACTIVE), ("ed", PENDING)], "", &["ed:pending>published", "ed:published>active"]),
        (&[("ed", ACTIVE), ("a", PENDING)], "", &["a:pending>published", "a:published>active"]),
        (&[("a", PUBLISHED), ("ed", PUBLISHED)], "", &["a:published>active", "ed:published>active"]),
        // Older than the key that signs, but of another kind.
        (&[("ed", PUBLISHED), ("a", ACTIVE)], "", &["ed:published>active"]),
        (&[("a", ACTIVE), ("ed", ACTIVE), ("ed2", PUBLISHED)], "", &["ed:active>retiring", "ed2:published>active"]),
        (&[("a", ACTIVE), ("ed", ACTIVE), ("b", PUBLISHED)], "", &["a:active>retiring", "b:published>active"]),
        (
            &[("a", ACTIVE), ("ed", ACTIVE), ("b", PUBLISHED), ("ed2", PUBLISHED)],
            "",
            &["a:active>retiring", "b:published>active", "ed:active>retiring", "ed2:published>active"],
        ),
        (&[("a", ACTIVE), ("ed", ACTIVE)], "a", &["a:active>revoked"]),
        (&[("a", ACTIVE), ("ed", ACTIVE)], "ed", &["ed:active>revoked"]),
        // The other kind does not step in.
        (
            &[("a", ACTIVE), ("ed", ACTIVE), ("ed2", PUBLISHED)],
            "a",
            &["a:active>revoked", "ed:active>retiring", "ed2:published>active"],
        ),
        (&[("b", PUBLISHED), ("a", ACTIVE), ("ed", ACTIVE)], "a", &["a:active>revoked", "b:published>active"]),
    ];
    for (before, revoked, expected) in cases {
        let sightings: Vec<_> = before.iter().map(|(id, _)| seen(id, true)).collect();
        let revoke = [revoked.to_owned()];
        let circumstances = Circumstances { dual: true, revoke: &revoke, ..circumstances(&sightings, true) };
        assert_eq!(told(&steps(&keys(before), &circumstances)), expected, "before {before:?} revoked {revoked:?}");
        let idle = Circumstances { signs: false, revoke: &[], ..circumstances };
        assert!(steps(&keys(before), &idle).iter().all(|step| step.to == PUBLISHED), "a domain that does not sign");
    }
}

/// RSA keys of all sizes make the same signatures.
#[test]
fn the_size_of_an_rsa_key_makes_it_no_other_kind() {
    let mut keys = keys(&[("a", ACTIVE), ("ed", ACTIVE), ("b", PUBLISHED)]);
    keys[2].algorithm = "rsa-4096".into();
    let got = steps(&keys, &Circumstances { dual: true, ..circumstances(&[], true) });
    assert_eq!(told(&got), ["a:active>retiring", "b:published>active"]);
}

/// (keys before, keys to revoke, all steps)
#[test]
fn where_dual_signing_ends_the_rsa_key_stays_and_nothing_is_left_that_would_replace_it() {
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static [&'static str]);
    let cases: [Case; 9] = [
        (&[("a", ACTIVE), ("ed", ACTIVE)], &[], &["ed:active>retiring"]),
        (&[("ed", ACTIVE), ("a", ACTIVE)], &[], &["ed:active>retiring"]),
        (&[("ed", ACTIVE)], &[], &[]),
        (&[("a", ACTIVE)], &[], &[]),
        (&[("a", ACTIVE), ("ed", PENDING)], &["ed"], &["ed:pending>revoked"]),
        (
            &[("a", ACTIVE), ("ed", ACTIVE), ("ed2", PUBLISHED)],
            &["ed2"],
            &["ed2:published>revoked", "ed:active>retiring"],
        ),
        // A rotation of the RSA key goes on.
        (
            &[("a", ACTIVE), ("ed", ACTIVE), ("b", PUBLISHED)],
            &[],
            &["ed:active>retiring", "a:active>retiring", "b:published>active"],
        ),
        (&[("a", PUBLISHED), ("ed", PUBLISHED)], &["ed"], &["ed:published>revoked", "a:published>active"]),
        // The RSA key may never be published: what signs goes on.
        (&[("a", PENDING), ("ed", ACTIVE)], &[], &[]),
    ];
    for (before, revoked, expected) in cases {
        let keys = keys(before);
        let revoke = without_a_place(&keys);
        assert_eq!(revoke, revoked, "before {before:?}");
        let got = steps(&keys, &Circumstances { revoke: &revoke, ..circumstances(&[], true) });
        assert_eq!(told(&got), expected, "before {before:?}");
        let disabled = steps(&keys, &Circumstances { revoke: &revoke, ..circumstances(&[], false) });
        let retires = |steps: &[Step]| steps.iter().filter(|step| step.key_id == "ed" && step.to == RETIRING).count();
        assert_eq!(retires(&disabled), retires(&got), "signing may be disabled meanwhile: {before:?}");
    }
}

#[test]
fn the_rsa_signature_comes_first_and_there_is_one_of_a_kind() {
    let signing =
        |states: &[(&str, &str)]| -> Vec<String> { signing_keys(&keys(states)).map(|key| key.id.clone()).collect() };
    assert_eq!(signing(&[("ed", ACTIVE), ("a", ACTIVE)]), ["a", "ed"]);
    assert_eq!(signing(&[("a", RETIRING), ("ed", ACTIVE), ("b", PUBLISHED)]), ["ed"]);
    assert_eq!(signing(&[("a", RETIRING), ("b", PENDING)]), [""; 0]);
}
