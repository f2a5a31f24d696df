//! Faults of published records, as data: tests/cases/dns/*.json. Each case has zones, what is checked, and what must be found.
use crate::bind::{Bind, Zone};
use serde::Deserialize;
use signpost_diagnosis::check::{Expected, Finding, Want, check};
use signpost_dkim::SigningDomain;
use signpost_dkim::names::SignatureAlgorithm;
use signpost_dkim::record::PublicKey;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    rfc: String,
    domain: String,
    zones: Vec<CaseZone>,
    checks: Vec<CaseCheck>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseZone {
    name: String,
    records: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseCheck {
    name: String,
    want: CaseWant,
    expect: CaseExpect,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum CaseWant {
    Dkim { kind: String, p: String },
    Ownership(String),
    Spf(Vec<IpAddr>),
    Dmarc,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseExpect {
    status: String,
    /// Each must stand in the explanation.
    explanation: Vec<String>,
    /// Each must stand in a warning; with none, there must be no warning but about key sizes.
    warnings: Vec<String>,
    #[serde(default)]
    publish: Option<String>,
}

impl CaseWant {
    fn want(&self) -> Want {
        match self {
            Self::Ownership(value) => Want::Ownership { value: value.clone() },
            Self::Spf(egress) => Want::Spf { egress: egress.clone() },
            Self::Dmarc => Want::Dmarc,
            Self::Dkim { kind, p } => {
                let kind = match kind.as_str() {
                    "rsa" => SignatureAlgorithm::RsaSha256,
                    "ed25519" => SignatureAlgorithm::Ed25519Sha256,
                    other => panic!("unknown kind {other}"),
                };
                Want::DkimKey { key: PublicKey::from_p(kind, p).unwrap() }
            }
        }
    }
}

fn judge(case: &Case, expect: &CaseExpect, finding: &Finding) -> Result<(), String> {
    let fail = |what: String| Err(format!("{} {} ({}): {what}\n  {finding:?}", case.id, case.title, case.rfc));
    if finding.status.as_str() != expect.status {
        return fail(format!("{} instead of {}", finding.status.as_str(), expect.status));
    }
    if let Some(text) = expect.explanation.iter().find(|text| !finding.explanation.contains(*text)) {
        return fail(format!("the explanation lacks {text:?}"));
    }
    if let Some(text) =
        expect.warnings.iter().find(|text| !finding.warnings.iter().any(|warning| warning.contains(*text)))
    {
        return fail(format!("no warning says {text:?}"));
    }
    if expect.warnings.is_empty() && finding.warnings.iter().any(|warning| !warning.contains("bits")) {
        return fail("an unexpected warning".to_owned());
    }
    if expect.publish.is_some() && finding.publish != expect.publish {
        return fail(format!("publish is not {:?}", expect.publish));
    }
    if finding.servers.is_empty() || finding.explanation.is_empty() {
        return fail("no server or explanation is named".to_owned());
    }
    Ok(())
}

async fn run(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/dns").join(file);
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    let zones: Vec<Zone> = cases
        .iter()
        .flat_map(|case| &case.zones)
        .map(|zone| Zone::new(&zone.name, &zone.records.iter().map(String::as_str).collect::<Vec<_>>()))
        .collect();
    let bind = Bind::start(&zones);
    let dns = bind.dns();
    let mut failures = Vec::new();
    for case in &cases {
        let domain = SigningDomain::parse(&case.domain).unwrap();
        let expected: Vec<Expected> =
            case.checks.iter().map(|check| Expected { name: check.name.clone(), want: check.want.want() }).collect();
        let findings = check(&dns, &domain, &expected, Duration::from_secs(10)).await;
        assert_eq!(findings.len(), case.checks.len());
        failures.extend(
            case.checks.iter().zip(&findings).filter_map(|(check, finding)| judge(case, &check.expect, finding).err()),
        );
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[tokio::test]
async fn faults_of_key_records_are_named() {
    run("dns-dkim.json").await;
}

#[tokio::test]
async fn faults_of_ownership_tokens_are_named() {
    run("dns-ownership.json").await;
}

#[tokio::test]
async fn faults_of_spf_records_are_named() {
    run("dns-spf.json").await;
}

#[tokio::test]
async fn faults_of_dmarc_records_are_named() {
    run("dns-dmarc.json").await;
}
