//! infra/, as far as a program can check it where there is no container engine and no systemd that runs: the unit by
//! systemd-analyze, the Compose file by its specification, and the processes that it describes by starting them.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    Api, App, DEADLINE, DkimPy, Named, Port, PostgresServer, Process, Receiver, Tenant, World, binary, enabled_domain,
    repository, wait_for,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

fn infra(file: &str) -> PathBuf {
    repository().join("infra").join(file)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The Compose file, checked against its specification, anchors and merges resolved.
fn compose() -> Value {
    let output = Command::new(repository().join("tests/.venv/bin/python"))
        .arg(repository().join("tests/tools/read_compose.py"))
        .arg(infra("compose.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn help(command: &str) -> String {
    let output = Command::new(binary()).args([command, "--help"]).env_clear().output().unwrap();
    assert!(output.status.success(), "{command} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// `SIGNPOST_...` in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let starts = text.match_indices("SIGNPOST_").map(|(at, _)| &text[at..]);
    starts.map(|rest| rest[..rest.find(|c| !name(c)).unwrap_or(rest.len())].to_owned()).collect()
}

#[test]
fn every_variable_that_is_written_about_is_a_setting() {
    let known = variables(&help("serve"));
    assert!(known.len() > 15, "{known:?}");
    let files = ["compose.yaml", "Dockerfile", "signpost.service", "README.md"].map(infra);
    for file in files.iter().chain([&repository().join("README.md")]) {
        for variable in variables(&read(file)) {
            // `SIGNPOST_NAME=value` is how the unit says that names go there.
            let is_pattern = variable == "SIGNPOST_NAME";
            assert!(known.contains(&variable) || is_pattern, "{}: {variable} is no setting", file.display());
        }
    }
}

#[test]
fn systemd_understands_the_unit_and_finds_little_exposed() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("signpost.service");
    let text = read(&infra("signpost.service"));
    let installed = "ExecStart=/usr/local/bin/signpost ";
    assert!(text.contains(installed));
    // Its program is not installed here.
    std::fs::write(&unit, text.replace(installed, &format!("ExecStart={} ", binary().display()))).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output();
        output.expect("systemd-analyze is missing: apt-get install systemd (tests/run does it)")
    };
    let verified = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    assert!(verified.status.success() && verified.stderr.is_empty(), "{}", String::from_utf8_lossy(&verified.stderr));
    // 1.5 of 10; a service without any hardening has 9.6.
    let security = analyze(&["security", "--offline=true", "--threshold=15", "--no-pager"]);
    assert!(security.status.success(), "{}", String::from_utf8_lossy(&security.stdout));
    let stop: u64 = text.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    assert!(stop > 45, "it must be able to drain");
}

/// systemd grants the service its credential by an access list, which shows as group bits (0440); such a master key is taken from its
/// folder and from nowhere else.
#[test]
fn a_master_key_that_is_a_credential_of_systemd_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("master_key");
    std::fs::copy(secrets().path().join("secrets/master_key"), &key).unwrap();
    let set_mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    let app = |credentials: &str| {
        let app = App::with().env("SIGNPOST_MASTER_KEY_FILE", key.display().to_string());
        app.env("CREDENTIALS_DIRECTORY", credentials)
    };
    let here = folder.path().display().to_string();
    set_mode(0o440);
    let mut first = app(&here).start();
    first.stop();
    for (mode, credentials) in [(0o440, ""), (0o440, "/nonexistent"), (0o444, here.as_str())] {
        set_mode(mode);
        app(credentials).prepare().start_until(503);
    }
}

/// Instructions of the Dockerfile with continued lines joined.
fn instructions() -> Vec<(String, String)> {
    read(&infra("Dockerfile"))
        .replace("\\\n", " ")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

#[test]
fn the_dockerfile_fits_the_repository() {
    let instructions = instructions();
    let all = |name: &str| -> Vec<&str> {
        instructions.iter().filter(|(n, _)| n == name).map(|(_, rest)| rest.as_str()).collect()
    };
    let manifest = read(&repository().join("Cargo.toml"));
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(all("FROM")[0].starts_with(&format!("rust:{version}-")), "{:?} but rust-version is {version}", all("FROM"));
    let ignored = read(&repository().join(".dockerignore"));
    let mut copied = Vec::new();
    for copy in all("COPY").into_iter().filter(|copy| !copy.starts_with("--from")) {
        let mut paths: Vec<&str> = copy.split(' ').collect();
        paths.pop();
        for path in paths {
            assert!(repository().join(path).exists(), "COPY {path}: there is no such path");
            assert!(!ignored.lines().any(|line| line == path), "COPY {path}: .dockerignore leaves it out");
            copied.push(path.to_owned());
        }
    }
    // What cargo needs to see: every member of the workspace, and what the sources take in from outside their crate.
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    for member in members.trim_matches(['[', ']']).split(", ").map(|m| m.trim_matches('"').trim_end_matches("/*")) {
        assert!(copied.iter().any(|path| path == member), "{member} is not copied");
    }
    for needed in ["Cargo.toml", "Cargo.lock", "migrations"] {
        assert!(copied.iter().any(|path| path == needed), "{needed} is not copied");
    }
    let user = all("USER").pop().unwrap();
    let numbers: Vec<u32> = user.split(':').map(|part| part.parse().unwrap()).collect();
    assert!(numbers.iter().all(|number| *number > 0), "USER {user}");
    let position = |name: &str| instructions.iter().position(|(n, _)| n == name).unwrap();
    assert!(position("USER") < position("ENTRYPOINT"));
    assert!(all("HEALTHCHECK")[0].contains("\"health\""));
    help("health");
    let ports: Vec<&str> = all("EXPOSE");
    assert!(all("ENV").iter().any(|env| env.contains(&format!("SIGNPOST_LISTEN=0.0.0.0:{}", ports[0]))));
    let volumes = all("VOLUME");
    assert!(all("ENV").iter().any(|env| env.contains(&format!("SIGNPOST_DATA_DIR={}", volumes[0]))));
}

#[test]
fn compose_publishes_on_loopback_only_and_starts_in_order() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} publishes {port}");
        }
    }
    let ours: Vec<&String> =
        services.iter().filter(|(_, s)| s["image"] == "signpost:local").map(|(name, _)| name).collect();
    assert_eq!(ours, ["migrate", "api1", "api2", "worker1", "worker2"]);
    for name in ours {
        let service = &services[name];
        assert_eq!((&service["read_only"], &service["cap_drop"]), (&json!(true), &json!(["ALL"])), "{name}");
        assert_eq!(service["secrets"], json!(["database_url", "master_key"]), "{name}");
        assert_eq!(service["depends_on"]["postgres"]["condition"], "service_healthy", "{name}");
        let migrated = &service["depends_on"]["migrate"]["condition"];
        assert_eq!(migrated == "service_completed_successfully", name != "migrate", "{name}");
        let context = infra("").join(service["build"]["context"].as_str().unwrap());
        assert!(context.join(service["build"]["dockerfile"].as_str().unwrap()).is_file(), "{name}");
    }
    let role = |name: &str| services[name]["environment"]["SIGNPOST_ROLES"].clone();
    assert_eq!(["api1", "api2", "worker1", "worker2"].map(role), ["api", "api", "worker", "worker"]);
    assert!(services["postgres"]["healthcheck"]["test"].is_array());
    assert!(services["postgres"]["volumes"][0].as_str().unwrap().starts_with("postgres:"));
}

/// What make-secrets leaves in a fresh folder.
fn secrets() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(infra("make-secrets"), folder.path().join("make-secrets")).unwrap();
    let run = || Command::new(folder.path().join("make-secrets")).output().unwrap();
    let first = run();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let master_key = std::fs::read(folder.path().join("secrets/master_key")).unwrap();
    assert!(run().status.success());
    assert_eq!(std::fs::read(folder.path().join("secrets/master_key")).unwrap(), master_key, "what is there stays");
    folder
}

/// The processes of the Compose file as this machine can run them.
struct Fleet {
    compose: Value,
    folder: TempDir,
    /// What stands for another thing here: in values of the environment.
    here: Vec<(String, String)>,
    /// What the tests need beside it: their DNS, their loopback.
    beside: BTreeMap<String, String>,
}

impl Fleet {
    /// The variables of a service, its paths and hosts replaced by ours.
    fn environment(&self, service: &str) -> BTreeMap<String, String> {
        let own = self.compose["services"][service]["environment"].as_object().unwrap();
        let mut all = self.beside.clone();
        for (name, value) in own {
            let mut value = value.as_str().unwrap().to_owned();
            for (there, here) in &self.here {
                value = value.replace(there, here);
            }
            all.insert(name.clone(), value);
        }
        all
    }

    fn start(&self, service: &str, listen: Option<SocketAddr>) -> Process {
        let mut environment = self.environment(service);
        environment.extend(listen.map(|address| ("SIGNPOST_LISTEN".to_owned(), address.to_string())));
        let command = self.compose["services"][service]["command"].as_array().unwrap().clone();
        Process::start(service, &binary(), &self.folder.path().join(service), |process| {
            process.args(command.iter().map(|word| word.as_str().unwrap())).env_clear().envs(environment);
        })
    }

    fn run(&self, service: &str, arguments: &[&str], listen: Option<SocketAddr>) -> Output {
        let mut environment = self.environment(service);
        environment.extend(listen.map(|address| ("SIGNPOST_LISTEN".to_owned(), address.to_string())));
        Command::new(binary()).args(arguments).env_clear().envs(environment).output().unwrap()
    }
}

fn fleet(named: &Named, receiver: &Receiver, database: &str) -> Fleet {
    let folder = secrets();
    let secret = |name: &str| folder.path().join("secrets").join(name);
    let address = read(&secret("database_url"));
    let password = read(&secret("database_password"));
    assert_eq!(address, format!("postgres://signpost:{password}@postgres:5432/signpost"));
    assert!(password.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "it needs no percent-encoding");
    let here = folder.path().join("database_url");
    std::fs::write(&here, database).unwrap();
    let map = |there: &str, here: String| (there.to_owned(), here);
    let beside = [
        ("SIGNPOST_DNS_RESOLVERS", named.address().to_string()),
        ("SIGNPOST_DNS_AUTHORITY_PORT", named.address().port().to_string()),
        ("SIGNPOST_DANGEROUS_ALLOW_TARGETS", "127.0.0.0/8".to_owned()),
        // On PostgreSQL nothing is written there: it stays absent.
        ("SIGNPOST_DATA_DIR", folder.path().join("data").display().to_string()),
    ];
    Fleet {
        compose: compose(),
        here: vec![
            map("/run/secrets/database_url", here.display().to_string()),
            map("/run/secrets/master_key", secret("master_key").display().to_string()),
            map("mailpit:1025", format!("127.0.0.1:{}", receiver.port())),
        ],
        beside: beside.map(|(name, value)| (name.to_owned(), value)).into(),
        folder,
    }
}

#[test]
fn the_processes_of_the_compose_file_deliver_a_signed_message() {
    let (named, receiver, server) = (World::zones().start(), Receiver::start(), PostgresServer::start());
    let fleet = fleet(&named, &receiver, &server.database());
    let migrated = fleet.run("migrate", &["migrate"], None);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let ports = [Port::reserve(), Port::reserve()];
    let addresses = ports.each_ref().map(|port| SocketAddr::from(([127, 0, 0, 1], port.number())));
    let mut processes: Vec<Process> = vec![
        fleet.start("api1", Some(addresses[0])),
        fleet.start("api2", Some(addresses[1])),
        fleet.start("worker1", None),
        fleet.start("worker2", None),
    ];
    for (service, address) in ["api1", "api2"].into_iter().zip(addresses) {
        wait_for(&format!("{service} is healthy"), DEADLINE, || {
            fleet.run(service, &["health"], Some(address)).status.success().then_some(())
        });
    }
    assert!(fleet.run("worker1", &["health"], None).status.success(), "a worker listens nowhere");
    let nobody = Port::reserve();
    let away = SocketAddr::from(([127, 0, 0, 1], nobody.number()));
    assert!(!fleet.run("api1", &["health"], Some(away)).status.success(), "nothing listens there");
    let created = fleet.run("api1", &["tenant", "create", "Ann", "--json"], None);
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let token = created["api_key"].as_str().unwrap().to_owned();
    let apis = addresses.map(|address| Api::new(address).with_token(&token));
    let tenant = Tenant { id: created["tenant_id"].as_str().unwrap().to_owned(), token, api: apis[0].clone() };
    let domain = enabled_domain(&tenant, &named, "example.test", "rsa-2048");
    let mut dkimpy = DkimPy::start();
    for (api, recipient) in apis.iter().zip(["bob@receiver.test", "bert@receiver.test"]) {
        let message = json!({"from": "ann@example.test", "to": [recipient], "subject": "x", "text": "y"});
        let id = api.post("/v1/messages", &message).expect(202).json()["id"].as_str().unwrap().to_owned();
        let received = receiver.wait_for_recipient(recipient);
        domain.assert_signed(&received.octets, &mut dkimpy, &named);
        apis[0].message_with_status(&id, "delivered");
    }
    let workers = server.sql("test0", "SELECT COUNT(*) FROM workers WHERE lease_until IS NOT NULL");
    assert_eq!(workers, "2", "both workers, and no API process, hold a lease");
    assert!(!fleet.folder.path().join("data").exists(), "a process wrote below its data folder");
    for process in &mut processes {
        process.assert_running();
        process.terminate_signal();
    }
    for process in processes {
        assert!(process.terminate(Duration::from_secs(60)).success());
    }
}
