//! Mutants: the product with a promise broken on purpose. The test that proves the promise has to fail on each.
//!
//! A patch in tests/mutants begins with header lines and an empty line, then comes the patch itself:
//!
//! - `breaks`: the promise, for people
//! - `test`: the test that has to fail
//! - `fault`: the word that begins a line of its complaint; a failure without it is another one and does not count
//! - `kills`: how often that test kills (SIGNPOST_KILLS)
use crate::repository;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A patch and what it says of itself.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// File name.
    pub name: String,
    header: BTreeMap<String, String>,
    file: PathBuf,
    touched: BTreeSet<String>,
}

const KEYS: [&str; 4] = ["breaks", "test", "fault", "kills"];
/// What `cargo build -p signpost` needs of the repository.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "services", "migrations", "openapi", "tests"];

impl Mutant {
    /// All of them, by name.
    pub fn all() -> Vec<Self> {
        let folder = repository().join("tests/mutants");
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "tests/mutants is empty");
        files.into_iter().map(Self::read).collect()
    }

    fn read(file: PathBuf) -> Self {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let (head, patch) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name} has no header"));
        let header: BTreeMap<String, String> = head
            .lines()
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{name}: {line:?} is no header line")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let keys: Vec<&str> = header.keys().map(String::as_str).collect();
        let mut known = KEYS;
        known.sort_unstable();
        assert_eq!(keys, known, "{name}");
        let touched: BTreeSet<String> =
            patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(str::to_owned).collect();
        assert!(!touched.is_empty(), "{name} patches nothing");
        Self { name, header, file, touched }
    }

    /// The promise that is broken.
    pub fn breaks(&self) -> &str {
        &self.header["breaks"]
    }

    /// Builds it; the caller holds [`Workshop`].
    fn build(&self, workshop: &Workshop) -> PathBuf {
        let tree = workshop.fresh_tree();
        run(Command::new("patch").args(["-p1", "--fuzz=0", "--forward", "-i"]).arg(&self.file).current_dir(&tree));
        // Files keep their times on the way here, so that what is not patched is not built again. But what any mutant patched
        // was built from other text before, which may be younger.
        for mutant in Self::all() {
            for path in mutant.touched {
                let file = File::options().append(true).open(tree.join(path)).unwrap();
                file.set_times(FileTimes::new().set_modified(now())).unwrap();
            }
        }
        workshop.build(&tree)
    }

    /// Builds it and runs its test, which is one of the calling executable. Fails unless that fails as it has to.
    pub fn assert_found(&self) {
        let workshop = Workshop::open();
        let binary = self.build(&workshop);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &self.header["test"], "--nocapture", "--test-threads=1"])
            .env("SIGNPOST_BIN", binary)
            .env("SIGNPOST_KILLS", &self.header["kills"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("1 test"), "{}: there is no test {}\n{text}", self.name, self.header["test"]);
        assert!(!output.status.success(), "{} was not found: {}\n{text}", self.name, self.breaks());
        let fault = format!("{}: ", self.header["fault"]);
        let complaints: Vec<&str> = text.lines().filter(|line| line.contains(&fault)).take(3).collect();
        let found =
            text.lines().any(|line| line.trim_start_matches("assertion `left == right` failed: ").starts_with(&fault));
        assert!(found, "{} failed for another reason than {fault:?}\n{text}", self.name);
        eprintln!("{} was found ({}):\n  {}", self.name, self.breaks(), complaints.join("\n  "));
    }
}

/// Where mutants are built, one at a time: beside what was built already, which is taken over.
struct Workshop {
    folder: PathBuf,
    _lock: File,
}

impl Workshop {
    fn open() -> Self {
        let profile = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
        let folder = profile.parent().unwrap().join("mutants");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let workshop = Self { folder, _lock: lock };
        if !workshop.target().exists() {
            workshop.take_over(&profile);
        }
        workshop
    }

    fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    /// Links to everything built, but copies of what comes from this repository: that is what will be written over.
    fn take_over(&self, profile: &Path) {
        let begun = self.folder.join("begun");
        let _ = std::fs::remove_dir_all(&begun);
        let debug = begun.join("debug");
        std::fs::create_dir_all(&debug).unwrap();
        for part in ["deps", ".fingerprint", "build"] {
            run(Command::new("cp").args(["-al"]).arg(profile.join(part)).arg(&debug));
            for entry in std::fs::read_dir(debug.join(part)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name.contains("signpost") {
                    run(Command::new("rm").arg("-rf").arg(&path));
                    run(Command::new("cp").arg("-a").arg(profile.join(part).join(&name)).arg(&path));
                }
            }
        }
        std::fs::rename(begun, self.target()).unwrap();
    }

    /// The sources as they are now, with their times.
    fn fresh_tree(&self) -> PathBuf {
        let tree = self.folder.join("tree");
        let _ = std::fs::remove_dir_all(&tree);
        std::fs::create_dir_all(tree.join("tests")).unwrap();
        for source in SOURCES {
            let from = repository().join(source);
            if source == "tests" {
                // Members of the workspace must be there; environments, caches and mutants need not.
                for member in ["it", "load"] {
                    if from.join(member).is_dir() {
                        run(Command::new("cp").arg("-a").arg(from.join(member)).arg(tree.join("tests")));
                    }
                }
            } else {
                run(Command::new("cp").arg("-a").arg(from).arg(&tree));
            }
        }
        tree
    }

    fn build(&self, tree: &Path) -> PathBuf {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // What cargo tells a test about itself would tell the build about the test.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "NEXTEST"]
                .iter()
                .any(|p| name.starts_with(p))
            {
                command.env_remove(name);
            }
        }
        command.args(["build", "--locked", "--offline", "-p", "signpost"]).current_dir(tree);
        run(command.env("CARGO_TARGET_DIR", self.target()));
        self.target().join("debug/signpost")
    }
}

#[expect(clippy::disallowed_methods, reason = "files are compared by cargo with the real time")]
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}
