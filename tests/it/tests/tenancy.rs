//! Tenants do not see, use or even notice each other.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{Answer, Api, DEADLINE, DkimPy, Tenant, World, enabled_domain, wait_for};
use std::process::Command;

/// A call whose sender is of the given domain.
type AskAs<'a> = Box<dyn Fn(&str) -> Answer + 'a>;
/// A call with the given credentials.
type CallBy<'a> = Box<dyn Fn(&Api) -> Answer + 'a>;

const ABSENT: &str = "00000000000000000000000000000000";

/// Everything of an answer that may not tell one case from another.
fn essence(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()) && !name.as_str().contains("ratelimit"))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    let mut body = answer.json();
    let request_id = body["request_id"].take();
    assert_eq!(request_id, answer.header("x-request-id"));
    (answer.status, headers, body)
}

fn message(from: &str) -> Value {
    json!({"from": from, "to": ["bob@receiver.test"], "subject": "x", "text": "y"})
}

#[test]
fn what_belongs_to_another_tenant_is_a_404_like_what_does_not_exist() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let message_id = world.send_to(&domain, "bob@receiver.test");
    let keys = world.tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
    let key_id = keys["data"][0]["id"].as_str().unwrap();
    let stranger = world.app.tenant("Eve").api;
    let calls: Vec<(&str, String, Option<Value>)> = vec![
        ("GET", "/v1/domains/{dom}".into(), None),
        ("DELETE", "/v1/domains/{dom}".into(), None),
        ("GET", "/v1/domains/{dom}/records".into(), None),
        ("GET", "/v1/domains/{dom}/records?format=bind".into(), None),
        ("POST", "/v1/domains/{dom}/check".into(), None),
        ("GET", "/v1/domains/{dom}/checks".into(), None),
        ("POST", "/v1/domains/{dom}/signing/enable".into(), None),
        ("POST", "/v1/domains/{dom}/signing/disable".into(), None),
        ("GET", "/v1/domains/{dom}/keys".into(), None),
        ("POST", "/v1/domains/{dom}/keys".into(), Some(json!({"algorithm": "ed25519"}))),
        ("POST", "/v1/domains/{dom}/keys/rotate".into(), None),
        ("POST", "/v1/keys/{key}/revoke".into(), None),
        ("GET", "/v1/domains/{dom}/signing-policy".into(), None),
        ("PATCH", "/v1/domains/{dom}/signing-policy".into(), Some(json!({"rotation_days": 1}))),
        ("POST", "/v1/domains/{dom}/keys/import".into(), Some(json!({"private_key": "AAAA"}))),
        ("GET", "/v1/messages/{msg}".into(), None),
        ("GET", "/v1/messages/{msg}/raw".into(), None),
        ("GET", "/v1/messages/{msg}/events".into(), None),
    ];
    for (method, path, body) in calls {
        let call = |dom: &str, msg: &str, key: &str| {
            let path = path.replace("{dom}", dom).replace("{msg}", msg).replace("{key}", key);
            let (kind, body) = match &body {
                Some(body) => (Some("application/json"), body.to_string().into_bytes()),
                None => (None, Vec::new()),
            };
            stranger.call(method, &path, kind, body)
        };
        let foreign = call(&domain.id, &message_id, key_id);
        foreign.problem(404, "not-found");
        let absent = call(&format!("dom_{ABSENT}"), &format!("msg_{ABSENT}"), &format!("key_{ABSENT}"));
        assert_eq!(essence(&foreign), essence(&absent), "{method} {path}");
    }
    assert_eq!(stranger.get("/v1/domains").expect(200).json()["data"], json!([]));
    assert_eq!(stranger.get("/v1/messages").expect(200).json()["data"], json!([]));
    // Nothing of it was done.
    let still = world.tenant.api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json();
    assert_eq!((&still["signing"], still["keys"].as_array().unwrap().len()), (&json!("enabled"), 1));
}

#[test]
fn a_key_of_another_tenant_cannot_be_revoked() {
    let world = World::start();
    let stranger = world.app.tenant("Eve");
    let id = world.tenant.token.split('_').nth(1).unwrap();
    stranger.api.delete(&format!("/v1/api-keys/{id}")).problem(404, "not-found");
    world.tenant.api.get("/v1/domains").expect(200);
}

#[test]
fn a_sender_that_is_not_allowed_gets_the_same_answer_whoever_owns_the_domain() {
    let world = World::start();
    world.enabled_domain("example.test", "ed25519");
    let other = world.app.tenant("Bert");
    enabled_domain(&other, &world.named, "other.test", "ed25519");
    // Registered by us, not verified.
    world.tenant.api.post("/v1/domains", &json!({"name": "third.test"})).expect(201);
    let api = &world.tenant.api;
    let foreign = ["other.test", "nobodys.test", "third.test", "sub.other.test", "co.uk", "gmail.com"];
    let asked: Vec<(&str, AskAs<'_>)> = vec![
        ("JSON From", Box::new(|domain| api.post("/v1/messages", &message(&format!("ann@{domain}"))))),
        (
            "raw From",
            Box::new(|domain| {
                api.post_message(
                    "/v1/messages/raw",
                    format!("From: ann@{domain}\r\nTo: bob@receiver.test\r\n\r\nx\r\n").as_bytes(),
                )
            }),
        ),
        (
            "sign From",
            Box::new(|domain| api.post_message("/v1/sign", format!("From: ann@{domain}\r\n\r\nx\r\n").as_bytes())),
        ),
        (
            "raw Sender",
            Box::new(|domain| {
                let raw =
                    format!("From: ann@example.test\r\nSender: ann@{domain}\r\nTo: bob@receiver.test\r\n\r\nx\r\n");
                api.post_message("/v1/messages/raw", raw.as_bytes())
            }),
        ),
        (
            "JSON mail_from",
            Box::new(|domain| {
                let mut message = message("ann@example.test");
                message["mail_from"] = format!("ann@{domain}").into();
                api.post("/v1/messages", &message)
            }),
        ),
    ];
    for (what, ask) in asked {
        let answers: Vec<Answer> = foreign.iter().map(|domain| ask(domain)).collect();
        for (domain, answer) in foreign.iter().zip(&answers) {
            let problem = answer.problem(403, "domain-not-allowed");
            assert!(!problem.to_string().contains(domain), "{what}: the text repeats {domain}: {problem}");
            assert_eq!(essence(answer), essence(&answers[0]), "{what}: {domain} differs");
        }
    }
    assert_eq!(world.receiver.messages().len(), 0);
}

#[test]
fn a_subdomain_that_another_tenant_verified_is_not_its_parents() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    let parent = world.enabled_domain("example.test", "ed25519");
    let other = world.app.tenant("Bert");
    let child = enabled_domain(&other, &world.named, "shop.example.test", "ed25519");
    world.tenant.api.post("/v1/messages", &message("ann@shop.example.test")).problem(403, "domain-not-allowed");
    world.tenant.api.post("/v1/messages", &message("ann@deep.shop.example.test")).problem(403, "domain-not-allowed");
    other.api.post("/v1/messages", &message("bert@example.test")).problem(403, "domain-not-allowed");
    for (tenant, from, domain) in
        [(&other, "bert@deep.shop.example.test", &child), (&world.tenant, "ann@news.example.test", &parent)]
    {
        let before = world.receiver.messages().len();
        tenant.api.post("/v1/messages", &message(from)).expect(202);
        let received = world.receiver.wait_for(before + 1).pop().unwrap();
        domain.assert_signed(&received.octets, &mut dkimpy, &world.named);
    }
}

#[test]
fn an_own_verified_domain_that_is_not_enabled_is_a_409() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let disabled =
        world.tenant.api.post_empty(&format!("/v1/domains/{}/signing/disable", domain.id)).expect(200).json();
    assert_eq!((&disabled["ownership"], &disabled["signing"]), (&json!("verified"), &json!("disabled")));
    let answer = world.tenant.api.post("/v1/messages", &message("ann@example.test"));
    answer.problem(409, "signing-not-enabled");
    let raw = b"From: ann@example.test\r\nTo: bob@receiver.test\r\n\r\nx\r\n";
    world.tenant.api.post_message("/v1/messages/raw", raw).problem(409, "signing-not-enabled");
    world.tenant.api.post_message("/v1/sign", raw).problem(409, "signing-not-enabled");
}

#[test]
fn enabling_waits_for_the_records() {
    let world = World::start();
    let created = world.tenant.api.post("/v1/domains", &json!({"name": "example.test"})).expect(201).json();
    let id = created["id"].as_str().unwrap();
    assert_eq!(created["keys"][0]["algorithm"], "rsa-2048", "what is made unless said otherwise");
    let problem =
        world.tenant.api.post_empty(&format!("/v1/domains/{id}/signing/enable")).problem(409, "records-not-ready");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "ownership and dkim: {problem}");
    let check = world.tenant.api.post_empty(&format!("/v1/domains/{id}/check")).expect(200).json();
    assert_eq!(check["verdict"], "fail");
    for record in check["records"].as_array().unwrap().iter().filter(|r| r["required"] == true) {
        assert_eq!(record["status"], "missing", "{record:#}");
    }
    let after = world.tenant.api.get(&format!("/v1/domains/{id}")).expect(200).json();
    assert_eq!((&after["ownership"], &after["signing"]), (&json!("pending"), &json!("disabled")));
}

fn api_key(world: &World, scopes: &[&str], expires_at: Option<&str>) -> (String, Tenant) {
    let mut body = json!({"name": "narrow", "scopes": scopes});
    if let Some(at) = expires_at {
        body["expires_at"] = at.into();
    }
    let issued = world.tenant.api.post("/v1/api-keys", &body).expect(201).json();
    let token = issued["api_key"].as_str().unwrap().to_owned();
    world.app.learn_token(&token);
    let tenant = Tenant { id: world.tenant.id.clone(), api: world.app.api().with_token(&token), token };
    (issued["id"].as_str().unwrap().to_owned(), tenant)
}

#[test]
fn a_key_does_what_its_scopes_say_and_nothing_else() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let id = &domain.id;
    let calls: Vec<(&str, CallBy<'_>)> = vec![
        ("domains:read", Box::new(|api| api.get("/v1/domains"))),
        ("domains:read", Box::new(|api| api.get(&format!("/v1/domains/{id}/records")))),
        ("domains:write", Box::new(|api| api.post_empty(&format!("/v1/domains/{id}/check")))),
        ("domains:write", Box::new(|api| api.post_empty(&format!("/v1/domains/{id}/signing/enable")))),
        ("messages:send", Box::new(|api| api.post("/v1/messages", &message("ann@example.test")))),
        ("messages:read", Box::new(|api| api.get("/v1/messages"))),
        ("sign", Box::new(|api| api.post_message("/v1/sign", b"From: ann@example.test\r\n\r\nx\r\n"))),
        ("admin", Box::new(|api| api.get("/v1/api-keys"))),
    ];
    for scope in ["domains:read", "domains:write", "messages:send", "messages:read", "sign", "admin"] {
        let (_, key) = api_key(&world, &[scope], None);
        for (needed, call) in &calls {
            let answer = call(&key.api);
            if *needed == scope {
                assert!((200..300).contains(&answer.status), "{scope}: {} {}", answer.request, answer.text());
            } else {
                answer.problem(403, "missing-scope");
            }
        }
    }
    // A key gives no more than it has.
    let (_, admin) = api_key(&world, &["admin"], None);
    let answer = admin.api.post("/v1/api-keys", &json!({"name": "more", "scopes": ["admin", "sign"]}));
    assert!(matches!(answer.status, 403 | 422), "{}", answer.text());
}

/// Operation and the scope that it needs; what is not listed here fails the test below.
const OPERATIONS: [(&str, &str, &str); 29] = [
    ("get", "/v1/api-keys", "admin"),
    ("post", "/v1/api-keys", "admin"),
    ("delete", "/v1/api-keys/{id}", "admin"),
    ("get", "/v1/audit", "admin"),
    ("get", "/v1/domains", "domains:read"),
    ("post", "/v1/domains", "domains:write"),
    ("get", "/v1/domains/{id}", "domains:read"),
    ("delete", "/v1/domains/{id}", "domains:write"),
    ("post", "/v1/domains/{id}/check", "domains:write"),
    ("get", "/v1/domains/{id}/checks", "domains:read"),
    ("get", "/v1/domains/{id}/keys", "domains:read"),
    ("post", "/v1/domains/{id}/keys", "domains:write"),
    ("post", "/v1/domains/{id}/keys/rotate", "domains:write"),
    ("post", "/v1/domains/{id}/keys/import", "domains:write"),
    ("get", "/v1/kms-access", "domains:read"),
    ("get", "/v1/domains/{id}/records", "domains:read"),
    ("get", "/v1/domains/{id}/signing-policy", "domains:read"),
    ("patch", "/v1/domains/{id}/signing-policy", "domains:write"),
    ("post", "/v1/domains/{id}/signing/disable", "domains:write"),
    ("post", "/v1/domains/{id}/signing/enable", "domains:write"),
    ("post", "/v1/keys/{id}/revoke", "domains:write"),
    ("get", "/v1/messages", "messages:read"),
    ("post", "/v1/messages", "messages:send"),
    ("post", "/v1/messages/raw", "messages:send"),
    ("get", "/v1/messages/{id}", "messages:read"),
    ("get", "/v1/messages/{id}/events", "messages:read"),
    ("get", "/v1/messages/{id}/raw", "messages:read"),
    ("post", "/v1/sign", "sign"),
    ("post", "/v1/verify", "messages:read"),
];
/// May be asked by anybody. This list may only shrink.
const OPEN_TO_ALL: [&str; 5] = ["/.well-known/jwks.json", "/docs", "/livez", "/openapi.json", "/readyz"];
/// Takes credentials of its own (RFC 6749 2.3.1): see `tokens`.
const TOKEN: &str = "/v1/token";

#[test]
fn every_operation_of_the_document_wants_credentials_and_its_scope() {
    let world = World::start();
    let document = world.app.api().get("/openapi.json").expect(200).json();
    let mut unseen: Vec<(&str, &str)> = OPERATIONS.iter().map(|(method, path, _)| (*method, *path)).collect();
    let all = ["domains:read", "domains:write", "messages:send", "messages:read", "sign", "admin"];
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if OPEN_TO_ALL.contains(&path.as_str()) {
                world.app.api().call(&method.to_uppercase(), path, None, Vec::new()).expect(200);
                continue;
            }
            if path == TOKEN {
                let answer = world.app.api().call(
                    "POST",
                    TOKEN,
                    Some("application/x-www-form-urlencoded"),
                    b"grant_type=client_credentials".to_vec(),
                );
                assert_eq!(answer.expect(401).json()["error"], "invalid_client");
                continue;
            }
            let case = OPERATIONS.iter().find(|(m, p, _)| m == method && p == path);
            let (_, _, scope) = case.unwrap_or_else(|| panic!("{method} {path} has no authorization case"));
            unseen.retain(|seen| *seen != (method.as_str(), path.as_str()));
            assert_eq!(operation["security"], json!([{"bearer": [scope]}]), "{method} {path}");
            let raw = ["/v1/sign", "/v1/messages/raw", "/v1/verify"].contains(&path.as_str());
            let kind = if raw { "message/rfc822" } else { "application/json" };
            let (kind, body): (_, &[u8]) = if method == "post" { (Some(kind), b"{}") } else { (None, b"") };
            let path = path.replace("{id}", &format!("msg_{ABSENT}"));
            let call = |api: &Api| api.call(&method.to_uppercase(), &path, kind, body.to_vec());
            call(&world.app.api()).problem(401, "unauthenticated");
            let others: Vec<&str> = all.into_iter().filter(|other| other != scope).collect();
            let (_, without) = api_key(&world, &others, None);
            call(&without.api).problem(403, "missing-scope");
            let (_, with) = api_key(&world, &[scope], None);
            let answer = call(&with.api);
            assert!(![401, 403].contains(&answer.status), "{method} {path} with {scope}: {}", answer.text());
        }
    }
    assert_eq!(unseen, [], "cases for operations that are not there");
}

#[test]
fn no_or_wrong_credentials_are_a_401_that_tells_nothing() {
    let world = World::start();
    let token = &world.tenant.token;
    let flipped = format!("{}{}", &token[..token.len() - 1], if token.ends_with('a') { 'b' } else { 'a' });
    let (id, secret) = token.trim_start_matches("sp_").split_once('_').unwrap();
    let other = world.app.tenant("Bert").token;
    let swapped = format!("sp_{id}_{}", other.rsplit('_').next().unwrap());
    let mut answers = Vec::new();
    for wrong in [
        "x",
        "sp_",
        "sp__",
        "sp_x_y",
        &flipped,
        &swapped,
        &format!("sp_{secret}_{id}"),
        &token.to_uppercase(),
        &format!("{token}x"),
    ] {
        answers.push(world.app.api().with_token(wrong).get("/v1/domains"));
    }
    for answer in &answers {
        answer.problem(401, "unauthenticated");
        assert_eq!(essence(answer), essence(&answers[0]));
    }
    // RFC 6750 3.1: whether there were credentials, which the client knows, is the only difference.
    let none = world.app.api().get("/v1/domains");
    assert_eq!(none.problem(401, "unauthenticated")["detail"], answers[0].json()["detail"]);
    assert_eq!(none.header("www-authenticate"), "Bearer realm=\"signpost\"");
    assert_eq!(answers[0].header("www-authenticate"), "Bearer realm=\"signpost\", error=\"invalid_token\"");
    // A client that has no credentials may not make us read a body.
    world.app.api().post("/v1/messages", &message("ann@example.test")).problem(401, "unauthenticated");
}

#[test]
fn expired_and_revoked_keys_stop_working() {
    let world = World::start();
    let date = Command::new("date")
        .args(["-u", "-d", &format!("@{}", signpost_it::now() + 2), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    let soon = String::from_utf8(date.stdout).unwrap();
    let (_, expiring) = api_key(&world, &["domains:read"], Some(soon.trim()));
    expiring.api.get("/v1/domains").expect(200);
    wait_for("the key has expired", DEADLINE, || (expiring.api.get("/v1/domains").status == 401).then_some(()));
    let (id, revoked) = api_key(&world, &["domains:read"], None);
    revoked.api.get("/v1/domains").expect(200);
    world.tenant.api.delete(&format!("/v1/api-keys/{id}")).expect(204);
    revoked.api.get("/v1/domains").problem(401, "unauthenticated");
    let past = world
        .tenant
        .api
        .post("/v1/api-keys", &json!({"name": "x", "scopes": ["sign"], "expires_at": "2001-01-01T00:00:00Z"}));
    past.problem(422, "invalid-request");
    assert_eq!(past.pointers(), ["/expires_at"]);
    // The list shows no secret; the search at the end of the test looks for them in every answer.
    let list = world.tenant.api.get("/v1/api-keys").expect(200).json();
    assert!(list["data"].as_array().unwrap().len() >= 3, "{list}");
}
