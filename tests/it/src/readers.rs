//! Programs that read the forms in which records are offered.
use crate::dns::find;
use crate::judges::python;
use crate::repository;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Puts a fragment into the file of a zone and has named-checkzone read it; gives the zone's records but SOA, NS and A, as `name TYPE data`,
/// sorted. Fails on every complaint.
pub fn named_checkzone(zone: &str, fragment: &str) -> Vec<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "$TTL 60\n@ IN SOA ns1 hostmaster ( 1 60 60 600 1 )\n@ IN NS ns1\nns1 IN A 127.0.0.1\n{fragment}")
        .unwrap();
    let output = Command::new(find("named-checkzone", "bind9-utils"))
        .args(["-D", "-o", "-", zone])
        .arg(file.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| !line.contains("loaded serial") && *line != "OK").collect();
    assert!(output.status.success() && complaints.is_empty(), "named-checkzone: {said}\n{fragment}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut records: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.split_ascii_whitespace();
            let (name, _ttl, _class, kind) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let data = line.split_once(&format!(" {kind}")).unwrap().1.trim();
            (!matches!(kind, "SOA" | "NS" | "A")).then(|| format!("{name} {kind} {data}"))
        })
        .collect();
    records.sort();
    records
}

/// What Amazon Route 53 makes of a change batch on a hosted zone where these record sets stand (tests/tools/route53.py): the sets
/// afterwards, by `name. TYPE`, or why it would be refused.
pub fn route53(zone: &str, sets: &Value, batch: &Value) -> Result<Value, String> {
    let mut child = Command::new(python())
        .arg(repository().join("tests/tools/route53.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let given = json!({"zone": zone, "sets": sets, "batch": batch}).to_string();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
