//! What stands before the API: clients that hold connections and do nothing, tenants that ask too much, and what the log tells.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{App, Domain, Process, Tenant, World, wait_for};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Slow connections of each attack.
const CONNECTIONS: usize = 1_000;
/// Our limits are 10 s for a head, 20 s for a body or an answer; the attacks would go on until here.
const ATTACK: Duration = Duration::from_secs(90);

/// One slowhttptest with its report.
struct Attack {
    mode: &'static str,
    process: Process,
}

impl Attack {
    fn start(folder: &Path, mode: &'static str, arguments: &[&str]) -> Self {
        let report = folder.join(mode);
        let program = Path::new("slowhttptest");
        let process = Process::start("slowhttptest", program, &folder.join(format!("{mode}.log")), |command| {
            let (connections, length) = (CONNECTIONS.to_string(), ATTACK.as_secs().to_string());
            command.arg(format!("-{mode}")).args([
                "-c",
                &connections,
                "-r",
                "400",
                "-l",
                &length,
                "-p",
                "10",
                "-g",
                "-o",
            ]);
            command.arg(report).args(arguments);
        });
        Self { mode, process }
    }

    /// Waits for its end, which must be that the server closed every connection; gives how many were open at most.
    fn closed_by_the_server(mut self, folder: &Path) -> usize {
        let mode = self.mode;
        wait_for(&format!("end of slowhttptest -{mode}"), ATTACK + Duration::from_secs(30), || self.process.exited());
        let output = self.process.output();
        assert!(output.contains("No open connections left"), "-{mode}:\n{}", last_lines(&output));
        let csv = std::fs::read_to_string(folder.join(format!("{mode}.csv"))).unwrap();
        // Seconds,Closed,Pending,Connected,Service Available
        let rows: Vec<Vec<usize>> = csv
            .lines()
            .skip(1)
            .map(|line| line.split(',').map(|cell| cell.trim().parse().unwrap()).collect())
            .collect();
        let last = rows.last().unwrap();
        // The report ends a second before the last ones are closed.
        assert_eq!((last[1] + last[3], last[2]), (CONNECTIONS, 0), "-{mode} closed and connected, pending:\n{csv}");
        assert!(rows.iter().all(|row| row[4] > 0), "-{mode}: its probe found the service away:\n{csv}");
        rows.iter().map(|row| row[3]).max().unwrap()
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// TCP connections that the server has open (state 1 of /proc/net/tcp).
fn established(server: SocketAddr) -> usize {
    let local = format!(":{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .filter(|line| {
            let mut cells = line.split_ascii_whitespace().skip(1);
            cells.next().is_some_and(|cell| cell.ends_with(&local)) && cells.nth(1) == Some("01")
        })
        .count()
}

/// An ordinary client: asks, checks every answer, goes on until told; how long each took.
fn ordinary(ask: impl Fn(), stop: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        ask();
        times.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    times
}

/// Three ordinary clients while `during` runs: sorted times of all requests, and how many messages were accepted.
fn ordinary_clients(world: &World, domain: &Domain, during: impl FnOnce()) -> (Vec<Duration>, usize) {
    let api = &world.tenant.api;
    let stop = AtomicBool::new(false);
    let list = || assert_eq!(api.get("/v1/domains").expect(200).json()["data"][0]["name"], domain.name.as_str());
    let send = || drop(world.send_to(domain, "bob@receiver.test"));
    let message = format!("From: ann@{}\r\nTo: bob@receiver.test\r\nSubject: x\r\n\r\nHello.\r\n", domain.name);
    let sign = || {
        let signed = api.post_message("/v1/sign", message.as_bytes()).expect(200).json();
        assert_eq!(signed["signatures"][0]["domain"], domain.name.as_str());
    };
    std::thread::scope(|scope| {
        let lists = scope.spawn(|| ordinary(list, &stop));
        let sends = scope.spawn(|| ordinary(send, &stop));
        let signs = scope.spawn(|| ordinary(sign, &stop));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        stop.store(true, Ordering::SeqCst);
        let sent = sends.join().unwrap();
        let accepted = sent.len();
        let mut times = [lists.join().unwrap(), sent, signs.join().unwrap()].concat();
        times.sort_unstable();
        if let Err(panic) = caught {
            std::panic::resume_unwind(panic);
        }
        (times, accepted)
    })
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

#[test]
fn thousands_of_slow_connections_are_closed_and_nobody_else_feels_them() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let server = world.app.address();
    let (before, sent_before) = ordinary_clients(&world, &domain, || std::thread::sleep(Duration::from_secs(3)));
    let folder = tempfile::tempdir().unwrap();
    let (during, sent_during) = ordinary_clients(&world, &domain, || {
        let folder = folder.path();
        let url = |path: &str| format!("http://{server}{path}");
        // Authorized, so that its body is really read.
        let raw = format!("message/rfc822\r\nAuthorization: Bearer {}", world.tenant.token);
        let attacks = [
            Attack::start(folder, "H", &["-i", "3", "-x", "24", "-u", &url("/v1/domains")]),
            Attack::start(folder, "B", &["-i", "3", "-x", "10", "-s", "8192", "-f", &raw, "-u", &url("/v1/sign")]),
            // 170 octets a second: slow for us, and still soon through what lies in its own buffer when our reset comes.
            Attack::start(
                folder,
                "X",
                &["-w", "512", "-y", "1024", "-n", "3", "-z", "512", "-k", "6", "-u", &url("/openapi.json")],
            ),
        ];
        for attack in attacks {
            let mode = attack.mode;
            let open = attack.closed_by_the_server(folder);
            println!("-{mode}: at most {open} connections were open at a time");
            assert!(open >= CONNECTIONS / 2, "-{mode}: only {open} connections were open at a time; that is no attack");
        }
    });
    println!(
        "ordinary requests before: {}, p99 {:?}; during: {}, p99 {:?}",
        before.len(),
        p99(&before),
        during.len(),
        p99(&during)
    );
    wait_for("no connection is left", Duration::from_secs(30), || (established(server) == 0).then_some(()));
    world.receiver.wait_for(sent_before + sent_during);
}

/// Asks until the limit is reached.
fn until_refused(tenant: &Tenant) -> (usize, signpost_it::Answer) {
    (0..100)
        .map(|asked| (asked, tenant.api.get("/v1/domains")))
        .find(|(_, answer)| answer.status != 200)
        .expect("a hundred requests at once are more than two a second")
}

#[test]
fn a_tenant_beyond_its_rate_is_told_when_to_come_back_and_others_do_not_feel_it() {
    let app = App::with().env("SIGNPOST_RATE_LIMIT", "2").start();
    let (loud, quiet) = (app.tenant("Loud"), app.tenant("Quiet"));
    let wrong = format!("{}x", quiet.token);
    for _ in 0..20 {
        app.api().with_token(&wrong).get("/v1/domains").problem(401, "unauthenticated");
        app.api().get("/livez").expect(200);
    }
    let (allowed, refused) = until_refused(&loud);
    assert!(allowed >= 4, "two seconds' worth may come at once, {allowed} could");
    refused.problem(429, "rate-limited");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!((refused.header("ratelimit-limit"), refused.header("ratelimit-remaining")), ("4", "0"));
    let other = quiet.api.get("/v1/domains").expect(200);
    assert_eq!(other.header("ratelimit-remaining"), "3", "another tenant, or a wrong key, counted");
    wait_for("the next one may come", Duration::from_secs(10), || {
        (loud.api.get("/v1/domains").status == 200).then_some(())
    });
}

#[test]
fn the_json_log_has_one_line_for_each_answer_and_no_secret() {
    let app = App::with()
        .env("SIGNPOST_LOG", "info")
        .env("SIGNPOST_LOG_FORMAT", "json")
        .env("SIGNPOST_TRUSTED_PROXIES", "127.0.0.1")
        .start();
    let tenant = app.tenant("Ann");
    let forwarded =
        tenant.api.with_header("X-Forwarded-For", "1.1.1.1, 203.0.113.9").with_header("X-Request-Id", "from-outside-7");
    forwarded.get("/v1/domains/dom_00000000000000000000000000000000?cursor=mine").expect(422);
    let log = app.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let ours: Vec<&Value> = lines.iter().filter(|line| line["span"]["request_id"] == "from-outside-7").collect();
    assert_eq!(ours.len(), 1, "{log}");
    let line = ours[0];
    assert_eq!(line["message"], "answered", "{line}");
    assert_eq!(
        (&line["status"], &line["problem"]),
        (&json!(422), &json!("urn:signpost:problem:invalid-request")),
        "{line}"
    );
    assert!(line["ms"].is_u64(), "{line}");
    let span = &line["span"];
    assert_eq!((&span["method"], &span["route"]), (&json!("GET"), &json!("/v1/domains/{id}")), "{line}");
    assert_eq!(span["client"], "203.0.113.9", "{line}");
    assert!(span["tenant"].as_str().is_some_and(|id| tenant.id.ends_with(id)), "{line}");
    for private in ["Bearer", "sp_", "dom_0000", "cursor", "mine"] {
        assert!(!line.to_string().contains(private), "{private} in {line}");
    }
}
