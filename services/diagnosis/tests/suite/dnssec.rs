//! Signed zones before a validating resolver (unbound with a trust anchor): good, expired, changed after signing, and under an anchor that
//! belongs to no key of the zone.
use crate::bind::{Bind, Zone, free_port};
use signpost_diagnosis::check::{Expected, Finding, Status, Want, check};
use signpost_diagnosis::dns::{Dns, DnsSettings};
use signpost_diagnosis::guard::Guard;
use signpost_dkim::SigningDomain;
use signpost_dkim::record::{PublicKey, build, zone_text};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NAME: &str = "example.test";

/// A validating resolver of everything below `test`, asking one BIND; ended when dropped.
struct Unbound {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Unbound {
    fn start(authority: SocketAddr, trust_anchor: &str) -> Self {
        let program = Path::new("/usr/sbin/unbound");
        assert!(program.exists(), "unbound is missing; install it: apt-get install -y --no-install-recommends unbound");
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "server:\n interface: 127.0.0.1@{port}\n port: {port}\n do-daemonize: no\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n \
             chroot: \"\"\n username: \"\"\n pidfile: \"\"\n directory: \"{}\"\n do-ip6: no\n do-not-query-localhost: no\n \
             module-config: \"validator iterator\"\n trust-anchor: \"{trust_anchor}\"\n local-zone: \"test.\" transparent\n\
             remote-control:\n control-enable: no\n\
             forward-zone:\n name: \"test.\"\n forward-addr: 127.0.0.1@{}\n",
            folder.path().display(),
            authority.port()
        );
        let file = folder.path().join("unbound.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(program).arg("-dd").arg("-c").arg(&file).stderr(Stdio::piped()).spawn().unwrap();
        // From here on it is ended whatever happens.
        let mut unbound = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), _folder: folder };
        let mut lines = BufReader::new(unbound.child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let running = line.contains("start of service");
            said.push(line);
            if running {
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return unbound;
            }
        }
        panic!("unbound ended:\n{}", said.join("\n"));
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A zone, signed, and the DS-like trust anchor (the DNSKEY of its KSK).
struct SignedZone {
    zone: Zone,
    anchor: String,
}

/// Signs with signatures that end so far from now (as dnssec-signzone writes it).
fn sign(zone: &Zone, end: &str) -> SignedZone {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).current_dir(folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let make =
        |flags: &[&str]| run("/usr/bin/dnssec-keygen", &[&["-q", "-a", "ECDSAP256SHA256"], flags, &[NAME]].concat());
    let (_zsk, ksk) = (make(&[]), make(&["-f", "KSK"]));
    let anchor = std::fs::read_to_string(folder.path().join(format!("{ksk}.key"))).unwrap();
    let anchor = anchor.lines().find(|line| !line.starts_with(';')).unwrap().to_owned();
    std::fs::write(folder.path().join("zone"), zone.text()).unwrap();
    run(
        "/usr/bin/dnssec-signzone",
        &["-q", "-S", "-P", "-s", "now-2592000", "-e", end, "-o", NAME, "-f", "signed", "zone"],
    );
    let text = std::fs::read_to_string(folder.path().join("signed")).unwrap();
    SignedZone { zone: Zone::from_text(NAME, &text), anchor }
}

fn key() -> PublicKey {
    PublicKey::from_ed25519(&[1; 32]).unwrap()
}

fn zone_of(key: &PublicKey) -> Zone {
    Zone::new(NAME, &[&format!("s1._domainkey TXT {}", zone_text(&build(key)))])
}

/// The finding for our key, asked of this zone behind a validating resolver with this anchor.
async fn finding(zone: Zone, anchor: &str) -> Finding {
    let bind = Bind::start(&[zone, Zone::new("test", &["example NS ns1.example", "ns1.example A 127.0.0.1"])]);
    let unbound = Unbound::start(bind.address, anchor);
    let dns = Dns::new(DnsSettings {
        resolvers: vec![unbound.address],
        authority_port: bind.address.port(),
        guard: Guard { allow: vec!["127.0.0.0/8".parse().unwrap()] },
    })
    .unwrap();
    let expected = [Expected { name: format!("s1._domainkey.{NAME}"), want: Want::DkimKey { key: key() } }];
    check(&dns, &SigningDomain::parse(NAME).unwrap(), &expected, Duration::from_secs(10)).await.remove(0)
}

#[tokio::test]
async fn a_zone_whose_signatures_verify_is_fine() {
    let signed = sign(&zone_of(&key()), "now+2592000");
    let finding = finding(signed.zone, &signed.anchor).await;
    assert_eq!(finding.status, Status::Ok, "{finding:?}");
    assert_eq!(finding.warnings, [] as [&str; 0], "{finding:?}");
    assert_eq!(finding.servers.last().map(|one| one.status), Some(Status::Ok), "{finding:?}");
}

#[tokio::test]
async fn expired_signatures_are_bogus() {
    let signed = sign(&zone_of(&key()), "now-864000");
    let finding = finding(signed.zone, &signed.anchor).await;
    assert_eq!(finding.status, Status::DnssecBogus, "{finding:?}");
    assert!(finding.explanation.contains("SERVFAIL"), "{finding:?}");
    let statuses: Vec<_> = finding.servers.iter().map(|one| one.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::DnssecBogus], "the authoritative server is right: {finding:?}");
}

#[tokio::test]
async fn a_record_changed_after_signing_is_bogus() {
    let signed = sign(&zone_of(&PublicKey::from_ed25519(&[2; 32]).unwrap()), "now+2592000");
    let (theirs, ours) = (PublicKey::from_ed25519(&[2; 32]).unwrap().to_p(), key().to_p());
    let text = signed.zone.text();
    assert!(text.contains(&theirs), "{text}");
    let finding = finding(Zone::from_text(NAME, &text.replace(&theirs, &ours)), &signed.anchor).await;
    assert_eq!(finding.status, Status::DnssecBogus, "{finding:?}");
}

#[tokio::test]
async fn an_anchor_left_behind_by_a_former_provider_makes_an_unsigned_zone_bogus() {
    let former = sign(&zone_of(&key()), "now+2592000");
    let finding = finding(zone_of(&key()), &former.anchor).await;
    assert_eq!(finding.status, Status::DnssecBogus, "{finding:?}");
    assert!(finding.explanation.contains("DS record at the registrar"), "{finding:?}");
}

#[tokio::test]
async fn a_wrong_record_in_a_bogus_zone_is_first_of_all_wrong() {
    let signed = sign(&zone_of(&PublicKey::from_ed25519(&[2; 32]).unwrap()), "now-864000");
    let finding = finding(signed.zone, &signed.anchor).await;
    assert_eq!(finding.status, Status::Mismatch, "{finding:?}");
}
