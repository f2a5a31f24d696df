//! The repository and what cargo says about it.
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The top folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `cargo metadata` with the dependencies of this platform.
pub fn cargo_metadata() -> Value {
    let mut compiler = Command::new("rustc");
    compiler.arg("-vV");
    let version = output(compiler);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
    serde_json::from_str(&output(command)).unwrap()
}

/// Names of the crates that are really compiled into `package`. (`cargo metadata` also lists those that only a feature
/// which is off would bring.)
pub fn cargo_tree(package: &str) -> Vec<String> {
    let mut command = cargo();
    command.args([
        "tree",
        "--locked",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let mut names: Vec<String> =
        output(command).lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}
