//! `signpost sandbox --once`: the whole flow by one command, and what follows when a step is spoiled.
#![cfg(test)]

use serde_json::Value;
use signpost_it::{DkimPy, Port, TxtRecords, binary};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

struct Run {
    folder: TempDir,
    output: Output,
}

impl Run {
    fn of(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = Port::reserve();
        let mut command = Command::new(binary());
        command.args(["sandbox", "--once", "--listen", &format!("127.0.0.1:{}", port.number())]).args(arguments);
        command.env("SIGNPOST_DATA_DIR", folder.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        Self { folder, output }
    }
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }
    fn text(&self) -> String {
        format!(
            "{}\n--- stderr ---\n{}",
            String::from_utf8_lossy(&self.output.stdout),
            String::from_utf8_lossy(&self.output.stderr)
        )
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout)
            .unwrap_or_else(|e| panic!("standard output is not JSON ({e}): {}", self.text()))
    }
}

#[track_caller]
fn authentication_results(report: &Value) -> &str {
    report["authentication_results"].as_str().unwrap_or_else(|| panic!("{report:#}"))
}

/// dkimpy's verdict on the message as received, with the keys that the sandbox published.
fn dkimpy_says(report: &Value) -> Vec<bool> {
    let records = report["records"].as_array().unwrap();
    let txt: TxtRecords = records
        .iter()
        .filter(|r| r["purpose"] == "dkim")
        .map(|r| (r["name"].as_str().unwrap().to_owned(), r["value"].as_str().unwrap().to_owned()))
        .collect();
    assert!(!txt.is_empty(), "{report:#}");
    let message = std::fs::read(report["message_path"].as_str().unwrap()).unwrap();
    DkimPy::start().verify(&message, &txt)
}

#[test]
fn the_flow_ends_with_dkim_and_dmarc_pass() {
    let run = Run::of(&["--json"]);
    assert_eq!(run.code(), Some(0), "{}", run.text());
    let report = run.json();
    let mut members: Vec<&String> = report.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["authentication_results", "message_path", "records"]);
    let results = authentication_results(&report);
    assert!(results.contains("dkim=pass") && results.contains("dmarc=pass"), "{results}");
    assert_eq!(dkimpy_says(&report), [true]);
    let path = std::path::Path::new(report["message_path"].as_str().unwrap());
    assert!(
        path.canonicalize().unwrap().starts_with(run.folder.path().canonicalize().unwrap().join("sandbox")),
        "{path:?}"
    );
}

#[test]
fn for_people_it_prints_each_step_and_the_result() {
    let run = Run::of(&[]);
    assert_eq!(run.code(), Some(0), "{}", run.text());
    let text = String::from_utf8_lossy(&run.output.stdout).into_owned();
    assert!(text.contains("dkim=pass") && text.contains("dmarc=pass"), "{text}");
    for step in ["register", "publish", "check", "enable", "send", "receive"] {
        assert!(text.to_lowercase().contains(step), "{step}: {text}");
    }
}

#[test]
fn a_body_changed_on_the_way_fails_dkim() {
    let run = Run::of(&["--json", "--break", "dkim"]);
    assert_eq!(run.code(), Some(1), "{}", run.text());
    let report = run.json();
    assert!(authentication_results(&report).contains("dkim=fail"), "{report:#}");
    assert!(!authentication_results(&report).contains("dkim=pass"), "{report:#}");
    assert_eq!(dkimpy_says(&report), [false]);
}

#[test]
fn another_key_in_dns_stops_everything_at_the_check() {
    let run = Run::of(&["--json", "--break", "dns"]);
    assert_eq!(run.code(), Some(1), "{}", run.text());
    let report = run.json();
    assert!(report["message_path"].is_null(), "nothing is sent: {report:#}");
    assert!(report["authentication_results"].is_null(), "{report:#}");
    let dkim = report["records"].as_array().unwrap().iter().find(|r| r["purpose"] == "dkim").unwrap();
    assert_eq!(dkim["status"], "mismatch", "{report:#}");
}

#[test]
fn a_spoof_passes_dkim_and_fails_dmarc() {
    let run = Run::of(&["--json", "--break", "dmarc"]);
    assert_eq!(run.code(), Some(1), "{}", run.text());
    let results = run.json();
    let results = authentication_results(&results);
    assert!(results.contains("dkim=pass") && results.contains("dmarc=fail"), "{results}");
}

#[test]
fn an_unknown_step_to_break_is_told() {
    let run = Run::of(&["--break", "everything"]);
    assert_eq!(run.code(), Some(2), "{}", run.text());
}

#[test]
fn two_sandboxes_at_once_do_not_meet() {
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| Run::of(&["--json"]))).collect();
        both.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for run in &runs {
        assert_eq!(run.code(), Some(0), "{}", run.text());
    }
}
