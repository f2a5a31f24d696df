//! Real messages through POST /v1/sign: CPython's email test data, and the messages that the mail-parser crate carries.
//!
//! Preparation (tests/tools/collect_corpus.py): LF becomes CRLF, From is rewritten to the tenant's domain, or put on top where it
//! is missing. Each message is then signed, verifies with dkimpy, mail-auth and our verifier, and is otherwise unchanged; or it
//! is refused with a reason. The results are committed in tests/it/corpus-results.tsv and were read by hand; a drift fails.
//! `UPDATE_CORPUS=1` writes the file anew.
#![cfg(test)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use signpost_it::{Answer, DkimPy, Domain, MailAuthJudge, World, cargo_metadata, our_verdict, repository};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Messages that mail-auth 0.13.3 gets wrong although dkimpy and our verifier pass them, with the fault.
const MAIL_AUTH_IS_WRONG: &[(&str, &str)] = &[];

struct Sample {
    file: String,
    sha256: String,
    message: Vec<u8>,
}

fn samples() -> Vec<Sample> {
    let metadata = cargo_metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let parser =
        packages.iter().find(|p| p["name"] == "mail-parser" && p["version"] == "0.11.9").expect("mail-parser 0.11.9");
    let folder = Path::new(parser["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned();
    let output = Command::new(repository().join("tests/.venv/bin/python"))
        .arg(repository().join("tests/tools/collect_corpus.py"))
        .arg(folder)
        .arg("corpus@example.test")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| {
            let sample: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| sample[name].as_str().unwrap().to_owned();
            Sample { file: text("file"), sha256: text("sha256"), message: STANDARD.decode(text("message")).unwrap() }
        })
        .collect()
}

struct Judges {
    dkimpy: DkimPy,
    mail_auth: MailAuthJudge,
}

/// `signed` or `refused`, and the reason.
fn outcome(sample: &Sample, answer: &Answer, domain: &Domain, judges: &mut Judges) -> (String, String) {
    if answer.status != 200 {
        let problem = answer.json();
        let kind = problem["type"].as_str().unwrap_or_default().trim_start_matches("urn:signpost:problem:").to_owned();
        assert!(matches!(answer.status, 403 | 413 | 422), "{}: {}", sample.file, answer.text());
        let fault = &problem["errors"][0];
        let place = match (fault["header"].as_str(), fault["line"].as_u64()) {
            (Some(header), Some(line)) => format!("line {line}, {header}: "),
            (None, Some(line)) => format!("line {line}: "),
            (Some(header), None) => format!("{header}: "),
            (None, None) => String::new(),
        };
        let detail = fault["detail"].as_str().or(problem["detail"].as_str()).unwrap_or_default();
        assert!(!detail.is_empty(), "{}: {problem}", sample.file);
        return ("refused".to_owned(), format!("{kind}: {place}{detail}").replace(['\t', '\r', '\n'], " "));
    }
    let signed = &answer.body;
    assert!(signed.ends_with(&sample.message), "{}: more was changed than a field put on top", sample.file);
    let added = String::from_utf8(signed[..signed.len() - sample.message.len()].to_vec()).unwrap();
    assert!(added.starts_with("DKIM-Signature:") && added.ends_with("\r\n"), "{}: {added}", sample.file);
    assert!(
        added.split("\r\n").skip(1).all(|line| line.is_empty() || line.starts_with(['\t', ' '])),
        "{}: {added}",
        sample.file
    );
    assert!(added.split("\r\n").all(|line| line.len() <= 78), "{}: {added}", sample.file);
    // Signatures that the message had already are of keys long gone; ours is the one on top.
    let (verdicts, reasons) = judges.dkimpy.verify_with_reasons(signed, &domain.txt);
    assert_eq!(verdicts.first(), Some(&true), "{}: dkimpy: {reasons}", sample.file);
    let ours = our_verdict(signed, &domain.txt);
    assert_eq!(ours[0].result.as_str(), "pass", "{}: {ours:?}", sample.file);
    let results = judges.mail_auth.verify(signed, &domain.txt);
    let of_ours = results.iter().find(|(d, s, _)| *d == domain.name && *s == domain.selector).map(|(_, _, word)| *word);
    match MAIL_AUTH_IS_WRONG.iter().find(|(file, _)| *file == sample.file) {
        None => assert_eq!(of_ours, Some("pass"), "{}: mail-auth: {results:?}", sample.file),
        Some((_, fault)) => {
            assert_ne!(of_ours, Some("pass"), "{}: mail-auth passes it now; strike it from the list", sample.file);
            return ("signed".to_owned(), format!("mail-auth 0.13.3 is wrong: {fault}"));
        }
    }
    ("signed".to_owned(), String::new())
}

fn list() -> PathBuf {
    repository().join("tests/it/corpus-results.tsv")
}

#[test]
fn every_real_message_is_signed_and_verifies_or_is_refused_with_a_reason() {
    let world = World::start();
    let mut judges = Judges { dkimpy: DkimPy::start(), mail_auth: MailAuthJudge::new() };
    let mut rows = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let samples = samples();
    for (name, algorithm) in [("example.test", "rsa-2048"), ("other.test", "ed25519")] {
        let domain = world.enabled_domain(name, algorithm);
        for sample in &samples {
            let moved = Sample {
                file: sample.file.clone(),
                sha256: sample.sha256.clone(),
                message: replace_first(&sample.message, b"corpus@example.test", format!("corpus@{name}").as_bytes()),
            };
            let answer =
                world.tenant.api.with_header("Accept", "message/rfc822").post_message("/v1/sign", &moved.message);
            let (outcome, reason) = outcome(&moved, &answer, &domain, &mut judges);
            if name == "example.test" {
                *counts.entry(outcome.clone()).or_default() += 1;
                rows.push((sample.file.clone(), sample.sha256.clone(), outcome, reason));
            } else {
                let first = rows.iter().find(|row| row.0 == sample.file).unwrap();
                assert_eq!(
                    (&first.2, &first.3),
                    (&outcome, &reason),
                    "{}: another result with {algorithm}",
                    sample.file
                );
            }
        }
    }
    eprintln!("{} messages: {counts:?}", samples.len());
    assert!(counts["signed"] >= 100, "{counts:?}");
    compare_with_list(&rows);
}

fn replace_first(message: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = message.windows(from.len()).position(|w| w == from).unwrap();
    [&message[..at], to, &message[at + from.len()..]].concat()
}

/// Another Python may carry other messages: what is not in the list was judged above all the same, and is named.
fn compare_with_list(rows: &[(String, String, String, String)]) {
    let header = "# file\tSHA-256 of the file\toutcome\treason";
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        let lines: Vec<String> = rows.iter().map(|(f, s, o, r)| format!("{f}\t{s}\t{o}\t{r}")).collect();
        std::fs::write(list(), format!("{header}\n{}\n", lines.join("\n"))).unwrap();
    }
    let text = std::fs::read_to_string(list()).expect("tests/it/corpus-results.tsv; UPDATE_CORPUS=1 writes it");
    let listed: BTreeMap<(&str, &str), (&str, &str)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let parts: Vec<&str> = line.split('\t').collect();
            ((parts[0], parts[1]), (parts[2], parts[3]))
        })
        .collect();
    let (mut compared, mut drift) = (0, Vec::new());
    for (file, sha256, outcome, reason) in rows {
        match listed.get(&(file.as_str(), sha256.as_str())) {
            None => eprintln!("not in the list: {file} {sha256}: {outcome} {reason}"),
            Some(expected) if *expected == (outcome.as_str(), reason.as_str()) => compared += 1,
            Some(expected) => drift.push(format!("{file}: {expected:?} became {:?}", (outcome, reason))),
        }
    }
    assert!(drift.is_empty(), "{}", drift.join("\n"));
    let absent = listed.len() - compared;
    eprintln!("{compared} compared with the list, {absent} of the list not on this machine");
    assert!(absent <= 3, "{absent} messages of the list are not on this machine");
}
