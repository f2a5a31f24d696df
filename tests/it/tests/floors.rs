//! The house rules that a compiler does not know: who imports whom, who reads the environment, what is explained.
#![cfg(test)]

use serde_json::Value;
use signpost_it::{cargo_metadata, cargo_tree, repository};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Floor of each crate; a crate imports lower floors only.
const FLOORS: [(&str, u8); 9] = [
    ("signpost-dkim", 0),
    ("signpost-keys", 1),
    ("signpost-store", 1),
    ("signpost-diagnosis", 1),
    ("signpost-engine", 2),
    ("signpost-http", 3),
    ("signpost", 4),
    ("signpost-it", 5),
    ("signpost-load", 6),
];

/// Crates from outside that only these members may name, as a dependency of any kind.
const RESERVED: [(&str, &[&str]); 6] = [
    ("sqlx", &["signpost-store"]),
    ("aws-sdk-kms", &["signpost-keys"]),
    ("aws-sdk-sts", &["signpost-keys"]),
    ("axum", &["signpost-http"]),
    ("utoipa-axum", &["signpost-http"]),
    ("mail-auth", &["signpost-diagnosis", "signpost", "signpost-it", "signpost-load"]),
];

/// Name, then names of what it depends on in any way, of every workspace member.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo_metadata();
    let ids: BTreeSet<&str> = texts(&metadata["workspace_members"]).collect();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .map(|package| {
            let names =
                package["dependencies"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().unwrap().iter().map(|value| value.as_str().unwrap())
}

#[test]
fn a_crate_imports_lower_floors_only() {
    let floors: BTreeMap<&str, u8> = FLOORS.into();
    let members = members();
    assert_eq!(members.keys().map(String::as_str).collect::<BTreeSet<_>>(), floors.keys().copied().collect());
    for (name, imports) in &members {
        for import in imports {
            if let Some(floor) = floors.get(import.as_str()) {
                assert!(
                    *floor < floors[name.as_str()],
                    "{name} (floor {}) imports {import} (floor {floor})",
                    floors[name.as_str()]
                );
            }
        }
    }
}

#[test]
fn http_sees_the_engine_and_the_names_in_dkim() {
    let imports = &members()["signpost-http"];
    let ours: Vec<&String> = imports.iter().filter(|name| name.starts_with("signpost")).collect();
    assert_eq!(ours, ["signpost-dkim", "signpost-engine"]);
    for (path, text) in sources(&repository().join("services/http")) {
        for part in ["sign", "verify", "canonical", "message", "record", "address"] {
            assert!(
                !text.contains(&format!("signpost_dkim::{part}::")),
                "{} uses signpost_dkim::{part}",
                path.display()
            );
        }
    }
}

#[test]
fn crates_with_a_place_of_their_own_stay_there() {
    for (name, imports) in members() {
        for (reserved, allowed) in RESERVED {
            assert!(!imports.contains(reserved) || allowed.contains(&name.as_str()), "{name} imports {reserved}");
        }
    }
}

#[test]
fn dkim_is_pure() {
    let allowed: BTreeSet<&str> = ["aws-lc-rs", "base64", "idna", "thiserror", "zeroize", "rsa", "wide"].into();
    // What only its tests use is not part of it.
    let metadata = cargo_metadata();
    let package = metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == "signpost-dkim").unwrap();
    for dependency in package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null()) {
        let name = dependency["name"].as_str().unwrap();
        assert!(allowed.contains(name), "signpost-dkim imports {name}");
    }
}

#[test]
fn the_binary_has_one_crypto_provider() {
    let compiled = cargo_tree("signpost");
    assert!(compiled.iter().any(|name| name == "aws-lc-rs"), "{compiled:?}");
    for banned in ["openssl", "openssl-sys", "native-tls", "ring"] {
        assert!(!compiled.iter().any(|name| name == banned), "{banned} is compiled into the binary");
    }
}

#[test]
fn every_member_takes_the_workspace_lints() {
    let metadata = cargo_metadata();
    let ids: BTreeSet<&str> = texts(&metadata["workspace_members"]).collect();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|p| ids.contains(p["id"].as_str().unwrap())) {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true\n"), "{}", package["manifest_path"]);
    }
}

#[test]
fn only_the_binary_reads_the_environment() {
    for (path, text) in sources(&repository().join("services")) {
        // What is not compiled into the product may be told how it is run.
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        if is_test || path.starts_with(repository().join("services/signpost")) {
            continue;
        }
        for call in ["env::var", "env::vars", "env::args", "option_env!"] {
            assert!(!text.contains(call), "{} reads the environment: {call}", path.display());
        }
    }
}

#[test]
fn every_lint_exception_says_why() {
    for (path, text) in sources(&repository()) {
        for opening in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in text.match_indices(opening) {
                let quoted = text[..at].ends_with('"');
                let attribute = text[at..].split(")]").next().unwrap();
                assert!(quoted || attribute.contains("reason = "), "{}: {attribute})]", path.display());
            }
        }
    }
}

#[test]
fn no_module_is_a_drawer_for_everything() {
    for (path, _) in sources(&repository().join("services")) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let parent = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        for drawer in ["common", "util", "utils", "types", "helpers", "misc"] {
            assert!(stem != drawer && parent != drawer, "{}: name it after what it does", path.display());
        }
    }
}

#[test]
fn no_file_names_a_machine() {
    // Put together here, so that this file does not name one either.
    let machines = [["/wo", "rk/"], ["/ro", "ot/"], ["/tmp", "/wt"], ["/home", "/runner"]].map(|parts| parts.concat());
    for path in files(&repository()) {
        // Files that are no text hold no paths of ours.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for machine in &machines {
            assert!(!text.contains(machine.as_str()), "{} names {machine}", path.display());
        }
    }
}

/// Path and text of every Rust file below.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let rust = files(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Every file below that belongs to the repository.
fn files(folder: &Path) -> Vec<PathBuf> {
    const NOT_OURS: [&str; 7] = [".git", "target", ".venv", ".cache", "signpost-data", "node_modules", "__pycache__"];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if NOT_OURS.iter().any(|name| path.file_name().is_some_and(|file| file == *name)) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
