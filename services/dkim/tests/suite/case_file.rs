//! Case files: JSON Lines, one case a line; `#` begins a comment line. A key that the case's type does not know fails the test.
use std::collections::HashSet;

use serde::de::DeserializeOwned;

/// The cases of `tests/cases/dkim/<name>.jsonl`.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/../../tests/cases/dkim/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut ids = HashSet::new();
    let mut cases = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{path}:{}: {e}", i + 1));
        let id = value["id"].as_str().unwrap_or_else(|| panic!("{path}:{}: no id", i + 1)).to_owned();
        assert!(ids.insert(id.clone()), "{path}:{}: {id} occurs twice", i + 1);
        cases.push(serde_json::from_value(value).unwrap_or_else(|e| panic!("{path}:{}: {id}: {e}", i + 1)));
    }
    assert!(!cases.is_empty(), "{path} has no cases");
    cases
}
