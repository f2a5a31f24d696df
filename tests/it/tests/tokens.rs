//! Access tokens: how they are had, where they count, and that nothing else does.
#![cfg(test)]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use signpost_it::{Answer, Api, App, PostgresServer, Receiver, World, wait_for};
use std::time::Duration;

const FORM: &str = "application/x-www-form-urlencoded";

/// Id and secret of an API key.
fn parts(api_key: &str) -> (&str, &str) {
    api_key.strip_prefix("sp_").unwrap().split_once('_').unwrap()
}

fn ask(api: &Api, form: &str) -> Answer {
    api.call("POST", "/v1/token", Some(FORM), form.as_bytes().to_vec())
}

fn form_of(api_key: &str) -> String {
    let (id, secret) = parts(api_key);
    format!("grant_type=client_credentials&client_id={id}&client_secret={secret}")
}

fn token(app: &App, api_key: &str) -> String {
    let answer = ask(&app.api(), &form_of(api_key)).expect(200);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    app.learn_secret("access token", token.as_bytes());
    token
}

fn decoded(token: &str, part: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(part).unwrap()).unwrap()).unwrap()
}

fn key_set(app: &App) -> Vec<Value> {
    app.api().get("/.well-known/jwks.json").expect(200).json()["keys"].as_array().unwrap().clone()
}

fn use_token(app: &App, token: &str) -> Answer {
    app.api().with_token(token).get("/v1/domains")
}

#[test]
fn a_token_counts_where_its_api_key_does() {
    let postgres = PostgresServer::start();
    for database in [None, Some(postgres.database())] {
        let world = World::start_with(|app| match &database {
            None => app,
            Some(url) => app.env("SIGNPOST_DATABASE_URL", url.as_str()),
        });
        let app = &world.app;
        let empty = app.api().get("/.well-known/jwks.json").expect(200);
        assert_eq!(empty.json(), json!({"keys": []}), "made when needed");
        assert_eq!(empty.header("cache-control"), "no-store", "or who keeps it would refuse the first tokens");
        let answer = ask(&app.api(), &form_of(&world.tenant.token)).expect(200);
        assert_eq!(answer.header("cache-control"), "no-store");
        let body = answer.json();
        assert_eq!((body["token_type"].as_str(), body["expires_in"].as_i64()), (Some("Bearer"), Some(900)));
        let token = body["access_token"].as_str().unwrap();
        let (header, claims) = (decoded(token, 0), decoded(token, 1));
        let url = format!("http://{}", app.address());
        assert_eq!((header["typ"].as_str(), header["alg"].as_str()), (Some("at+jwt"), Some("EdDSA")));
        assert_eq!(claims["iss"], url);
        assert_eq!(claims["aud"], format!("{url}/v1"));
        assert_eq!(claims["sub"], parts(&world.tenant.token).0);
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 900);
        assert!(claims["jti"].as_str().is_some_and(|id| !id.is_empty()));
        let keys = key_set(app);
        assert_eq!(keys.len(), 1);
        assert_eq!((&keys[0]["kid"], keys[0]["crv"].as_str()), (&header["kid"], Some("Ed25519")));
        use_token(app, token).expect(200);
        // A whole message, as with the key itself.
        let domain = world.enabled_domain("example.test", "ed25519");
        let message =
            json!({"from": format!("a@{}", domain.name), "to": ["bob@receiver.test"], "subject": "s", "text": "t"});
        let accepted = app.api().with_token(token).post("/v1/messages", &message).expect(202).json();
        world.tenant.api.message_with_status(accepted["id"].as_str().unwrap(), "delivered");
    }
}

#[test]
fn a_client_is_named_by_basic_or_in_the_form_and_each_fault_has_its_error() {
    let world = World::start();
    let api = world.app.api();
    let key = world.tenant.token.as_str();
    let (id, secret) = parts(key);
    let basic = |user: &str, password: &str| {
        api.with_header("Authorization", &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    };
    let grant = "grant_type=client_credentials";
    for good in [
        ask(&api, &format!("{grant}&client_id={id}&client_secret={secret}")),
        ask(&api, &format!("{grant}&client_id={id}&client_secret={key}")),
        ask(&api, &format!("{grant}&client_id={id}&client_secret={secret}&unheard_of=1&scope=")),
        ask(&basic(id, secret), grant),
        ask(&basic(id, key), &format!("{grant}&client_id={id}")),
        ask(&basic(id, &secret.replacen(&secret[..1], &format!("%{:02X}", secret.as_bytes()[0]), 1)), grant),
    ] {
        good.expect(200);
    }
    let narrowed = ask(&api, &format!("{}&scope=sign+domains:read", form_of(key))).expect(200).json();
    assert_eq!(narrowed["scope"], "domains:read sign");
    let narrowed = world.app.api().with_token(narrowed["access_token"].as_str().unwrap());
    narrowed.get("/v1/domains").expect(200);
    narrowed.get("/v1/messages").problem(403, "missing-scope");

    let whole = form_of(key);
    for (answer, status, error) in [
        (ask(&api, &format!("client_id={id}&client_secret={secret}")), 400, "invalid_request"),
        (ask(&api, &format!("{whole}&client_id={id}")), 400, "invalid_request"),
        (ask(&api, &format!("{whole}&grant_type=client_credentials")), 400, "invalid_request"),
        (ask(&api, &format!("grant_type=&{whole}")), 400, "invalid_request"),
        (ask(&api, &format!("{whole}&unheard_of=1&unheard_of=2")), 400, "invalid_request"),
        (ask(&basic(id, secret), &whole), 400, "invalid_request"),
        (ask(&basic(id, secret), &format!("{grant}&client_id=other")), 400, "invalid_request"),
        (api.call("POST", "/v1/token", Some("application/json"), b"{}".to_vec()), 400, "invalid_request"),
        (ask(&api, &whole.replace("client_credentials", "password")), 400, "unsupported_grant_type"),
        (ask(&api, &format!("{whole}&scope=everything")), 400, "invalid_scope"),
        (ask(&api, &format!("{whole}&scope=+")), 400, "invalid_scope"),
        (ask(&api, grant), 401, "invalid_client"),
        (ask(&api, &format!("{grant}&client_id={id}")), 401, "invalid_client"),
        (ask(&api, &format!("{whole}x")), 401, "invalid_client"),
        (ask(&api, &whole.replace(id, "0")), 401, "invalid_client"),
        (ask(&basic(id, "wrong"), grant), 401, "invalid_client"),
        (ask(&api.with_header("Authorization", &format!("Bearer {key}")), grant), 401, "invalid_client"),
        (ask(&api.with_header("Authorization", "Basic !"), grant), 401, "invalid_client"),
    ] {
        let answer = answer.expect(status);
        assert_eq!(answer.json()["error"], error, "{}", answer.text());
        assert!(answer.json()["error_description"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(answer.header("cache-control"), "no-store");
        if status == 401 {
            assert!(answer.header("www-authenticate").starts_with("Basic"));
        }
    }
    ask(&api, &"x".repeat(20_000)).problem(413, "message-too-large");
    // A token is no client secret.
    let token = token(&world.app, key);
    ask(&api, &format!("{grant}&client_id={id}&client_secret={token}")).expect(401);
}

#[test]
fn forged_and_foreign_tokens_are_refused() {
    let world = World::start();
    let other = World::start();
    let app = &world.app;
    let good = token(app, &world.tenant.token);
    let (header, claims, signature) = {
        let parts: Vec<&str> = good.split('.').collect();
        (parts[0], parts[1], parts[2])
    };
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let changed = |name: &str, value: Value| {
        let mut header = decoded(&good, 0);
        header[name] = value;
        format!("{}.{claims}.{signature}", encode(&header))
    };
    let mut raised = decoded(&good, 1);
    raised["exp"] = json!(raised["exp"].as_i64().unwrap() + 1);
    let hs256 = |secret: &[u8]| {
        let mut header = decoded(&good, 0);
        header["alg"] = json!("HS256");
        let signed = format!("{}.{claims}", encode(&header));
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes()))
        )
    };
    let jwk = key_set(app)[0].clone();
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let mut none = decoded(&good, 0);
    none["alg"] = json!("none");
    for forged in [
        format!("{}.{claims}.", encode(&none)),
        format!("{}.{claims}.{signature}", encode(&none)),
        hs256(&public),
        hs256(jwk["x"].as_str().unwrap().as_bytes()),
        hs256(jwk.to_string().as_bytes()),
        hs256(b""),
        format!("{header}.{}.{signature}", encode(&raised)),
        format!("{header}.{claims}.{}", "A".repeat(86)),
        format!("{header}.{claims}."),
        changed("kid", json!("../../../dev/null")),
        changed("kid", json!("' UNION SELECT 1 --")),
        changed("kid", json!("")),
        changed("kid", json!(0)),
        changed("kid", json!("unknown")),
        changed("typ", json!("JWT")),
        changed("jku", json!("http://127.0.0.1:1/jwks.json")),
        changed("jwk", jwk),
        changed("crit", json!(["exp"])),
        // Another installation's, good there.
        token(&other.app, &other.tenant.token),
    ] {
        use_token(app, &forged).problem(401, "unauthenticated");
    }
    use_token(app, &good).expect(200);
}

#[test]
fn revoking_the_api_key_ends_its_tokens() {
    let world = World::start();
    let created =
        world.tenant.api.post("/v1/api-keys", &json!({"name": "short", "scopes": ["domains:read"]})).expect(201).json();
    let key = created["api_key"].as_str().unwrap();
    world.app.learn_token(key);
    let token = token(&world.app, key);
    use_token(&world.app, &token).expect(200);
    world.tenant.api.delete(&format!("/v1/api-keys/{}", parts(key).0)).expect(204);
    let refused = use_token(&world.app, &token);
    refused.problem(401, "unauthenticated");
    assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"signpost\", error=\"invalid_token\"");
    assert_eq!(world.app.api().get("/v1/domains").header("www-authenticate"), "Bearer realm=\"signpost\"");
    ask(&world.app.api(), &form_of(key)).expect(401);
}

#[test]
fn suspending_the_tenant_ends_its_tokens_within_five_seconds() {
    let server = PostgresServer::start();
    let url = server.database();
    let world = World::start_with(|app| app.env("SIGNPOST_DATABASE_URL", url.as_str()));
    let token = token(&world.app, &world.tenant.token);
    use_token(&world.app, &token).expect(200);
    // Behind the back of this process, as another one or the operator would do it.
    server.sql(&url, "UPDATE tenants SET suspended_at = 1");
    wait_for("the token is refused", Duration::from_secs(5), || {
        (use_token(&world.app, &token).status == 403).then_some(())
    });
    use_token(&world.app, &token).problem(403, "tenant-suspended");
}

#[test]
fn processes_on_one_database_share_the_key() {
    let server = PostgresServer::start();
    let url = server.database();
    let (named, receiver) = (World::zones().start(), Receiver::start());
    let public = "https://signpost.test";
    let mut first = App::with().dns(&named).relay(&receiver).env("SIGNPOST_DATABASE_URL", url.as_str());
    first = first.env("SIGNPOST_PUBLIC_URL", public);
    let first = first.start();
    let mut second = App::with().dns(&named).relay(&receiver).env("SIGNPOST_DATABASE_URL", url.as_str());
    second = second.env("SIGNPOST_PUBLIC_URL", public);
    let second = second.env("SIGNPOST_MASTER_KEY_FILE", first.master_key_file().display().to_string()).start();
    let tenant = first.tenant("shared");
    second.learn_token(&tenant.token);
    assert_eq!(key_set(&second), Vec::<Value>::new());
    let (by_first, by_second) = (token(&first, &tenant.token), token(&second, &tenant.token));
    assert_eq!(decoded(&by_first, 0)["kid"], decoded(&by_second, 0)["kid"]);
    assert_eq!(decoded(&by_first, 1)["iss"], public);
    use_token(&second, &by_first).expect(200);
    use_token(&first, &by_second).expect(200);
    // Revoked by one process, refused by the other: at most 5 s stale.
    tenant.api.delete(&format!("/v1/api-keys/{}", parts(&tenant.token).0)).expect(204);
    use_token(&first, &by_second).problem(401, "unauthenticated");
    let limit = Duration::from_secs(5);
    wait_for("the other process refuses it", limit, || (use_token(&second, &by_first).status == 401).then_some(()));
}

#[test]
fn without_the_master_key_there_is_no_token() {
    let mut world = World::start();
    let form = form_of(&world.tenant.token);
    ask(&world.app.api(), &form).expect(200);
    world.app.stop();
    std::fs::remove_file(world.app.master_key_file()).unwrap();
    world.app.start_until(503);
    ask(&world.app.api(), &form).problem(503, "sealed");
}
