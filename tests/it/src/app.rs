//! The built binary.
use crate::{Api, DEADLINE, Named, Needle, Port, Process, Receiver, private_key_needles, search, wait_for};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

/// Settings of an [`App`] to be started.
#[derive(Default)]
pub struct AppBuilder {
    environment: Vec<(String, String)>,
    own_master_key: bool,
    secrets: Vec<(String, String)>,
}

/// `signpost serve` in a folder of its own. At its end (drop) it is killed, and its log, its data folder and everything it
/// answered are searched for the master key, private keys and API secrets; one found fails the test.
pub struct App {
    folder: TempDir,
    port: Port,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    api: Api,
    needles: Mutex<Vec<Needle>>,
}

/// A tenant and its first API key.
#[derive(Clone)]
pub struct Tenant {
    /// `ten_...`
    pub id: String,
    /// `sp_<id>_<secret>`
    pub token: String,
    /// A caller with that key.
    pub api: Api,
}

impl AppBuilder {
    /// One more variable, or another value for one that is set already.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Asks this server, and reaches authoritative servers on its port.
    pub fn dns(self, named: &Named) -> Self {
        let port = named.address().port().to_string();
        self.env("SIGNPOST_DNS_RESOLVERS", named.address().to_string()).env("SIGNPOST_DNS_AUTHORITY_PORT", port)
    }

    /// Delivers everything to this receiver.
    pub fn relay(self, receiver: &Receiver) -> Self {
        self.env("SIGNPOST_SMTP_RELAY", format!("smtp://127.0.0.1:{}", receiver.port()))
    }

    /// Delivers straight to MX hosts, on this receiver's port.
    pub fn direct_to_mx(self, receiver: &Receiver) -> Self {
        self.env("SIGNPOST_SMTP_PORT", receiver.port().to_string())
    }

    /// No master key is planted: the binary makes its own in the data folder.
    pub fn makes_its_own_master_key(mut self) -> Self {
        self.own_master_key = true;
        self
    }

    /// This shall be found nowhere.
    pub fn secret(mut self, name: &str, text: &str) -> Self {
        self.secrets.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Everything but the start.
    pub fn prepare(self) -> App {
        let folder = tempfile::Builder::new().prefix("signpost-app-").tempdir().unwrap();
        let port = Port::reserve();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let mut environment: Vec<(String, String)> = [
            ("SIGNPOST_LISTEN", address.to_string()),
            ("SIGNPOST_PUBLIC_URL", format!("http://{address}")),
            ("SIGNPOST_DATA_DIR", folder.path().join("data").display().to_string()),
            ("SIGNPOST_DANGEROUS_ALLOW_TARGETS", "127.0.0.0/8".to_owned()),
            ("SIGNPOST_HOSTNAME", "out.signpost.test".to_owned()),
            ("SIGNPOST_SERVICE_DOMAIN", "signpost.test".to_owned()),
            // Everything that could betray a secret shall have its chance to.
            ("SIGNPOST_LOG", "debug".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if !self.own_master_key {
            let file = folder.path().join("master.key");
            write_private(&file, &STANDARD.encode(random_octets()));
            environment.push(("SIGNPOST_MASTER_KEY_FILE".to_owned(), file.display().to_string()));
        }
        environment.extend(self.environment);
        let app = App {
            folder,
            port,
            environment,
            process: None,
            api: Api::new(address),
            needles: Mutex::new(private_key_needles()),
        };
        if !self.own_master_key {
            app.learn_master_key();
        }
        for (name, text) in &self.secrets {
            app.learn_secret(name, text.as_bytes());
        }
        app
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> App {
        let mut app = self.prepare();
        app.start();
        app
    }
}

impl App {
    /// Settings for one.
    pub fn with() -> AppBuilder {
        AppBuilder::default()
    }

    /// Starts `serve` and waits until /readyz is 200.
    pub fn start(&mut self) {
        self.start_until(200);
    }

    /// Starts `serve` and waits until /readyz has that status.
    pub fn start_until(&mut self, status: u16) {
        self.spawn();
        let (api, process) = (self.api.clone(), self.process.as_mut().unwrap());
        wait_for(&format!("/readyz is {status}"), DEADLINE, || {
            process.assert_running();
            let answer = api.try_call("GET", "/readyz", None, Vec::new()).ok()?;
            (answer.status == status).then_some(())
        });
        self.learn_master_key();
    }

    /// Starts `serve` and waits for nothing.
    pub fn start_only(&mut self) {
        self.spawn();
    }

    /// Starts `serve` and waits for it to end by itself.
    pub fn start_and_fail(&mut self) -> ExitStatus {
        self.spawn();
        let process = self.process.as_mut().unwrap();
        let status = wait_for("serve ends by itself", DEADLINE, || process.exited());
        self.process = None;
        status
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let environment = self.environment();
        self.process = Some(Process::start("signpost serve", &binary(), &self.log_file(), |command| {
            command.arg("serve").env_clear().envs(environment);
        }));
    }

    /// SIGTERM; fails the test if it does not end cleanly within the 30 s that it may drain.
    pub fn stop(&mut self) {
        let process = self.process.take().unwrap();
        let status = process.terminate(Duration::from_secs(40));
        assert!(status.success(), "after SIGTERM: {status}\n{}", self.log());
    }

    /// SIGTERM without waiting.
    pub fn begin_to_stop(&self) {
        self.process.as_ref().unwrap().terminate_signal();
    }

    /// Waits for the end that `begin_to_stop` asked for.
    pub fn wait_for_end(&mut self) {
        let process = self.process.as_mut().unwrap();
        let status = wait_for("serve ends", Duration::from_secs(40), || process.exited());
        self.process = None;
        assert!(status.success(), "after SIGTERM: {status}\n{}", self.log());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGSTOP: it stands still, until `thaw`.
    pub fn freeze(&self) {
        self.process.as_ref().unwrap().signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.as_ref().unwrap().signal(rustix::process::Signal::CONT);
    }

    /// Sets a variable for later starts.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// A caller without credentials.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// The HTTP address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// Runs the binary with the same settings.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .env_clear()
            .envs(self.environment())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// `signpost tenant create NAME --json`.
    pub fn tenant(&self, name: &str) -> Tenant {
        let output = self.cli(&["tenant", "create", name, "--json"]);
        assert!(output.status.success(), "tenant create: {}", String::from_utf8_lossy(&output.stderr));
        let created: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (id, token) =
            (created["tenant_id"].as_str().unwrap().to_owned(), created["api_key"].as_str().unwrap().to_owned());
        self.learn_token(&token);
        self.learn_master_key();
        Tenant { id, api: self.api.with_token(&token), token }
    }

    /// The secret of this API key shall be found nowhere.
    pub fn learn_token(&self, token: &str) {
        let secret = token.rsplit('_').next().unwrap();
        self.needles.lock().unwrap().push(Needle::new("API secret", secret.as_bytes()));
    }

    /// This shall be found nowhere.
    pub fn learn_secret(&self, name: &str, octets: &[u8]) {
        self.needles.lock().unwrap().push(Needle::new(name, octets));
    }

    /// Where the master key lies.
    pub fn master_key_file(&self) -> PathBuf {
        self.environment()
            .into_iter()
            .find(|(name, _)| name == "SIGNPOST_MASTER_KEY_FILE")
            .map_or_else(|| self.data_folder().join("master.key"), |(_, path)| PathBuf::from(path))
    }

    /// SIGNPOST_DATA_DIR.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The id of the running process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// What `serve` printed, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The environment of the binary: only what is set here. The last value of a name counts; an empty one unsets it.
    fn environment(&self) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = ["PATH", "HOME", "TMPDIR"]
            .iter()
            .filter_map(|name| std::env::var(name).ok().map(|value| ((*name).to_owned(), value)))
            .collect();
        for (name, value) in &self.environment {
            environment.retain(|(known, _)| known != name);
            if !value.is_empty() {
                environment.push((name.clone(), value.clone()));
            }
        }
        environment
    }

    fn learn_master_key(&self) {
        let Ok(text) = std::fs::read_to_string(self.master_key_file()) else { return };
        let Ok(octets) = STANDARD.decode(text.trim()) else { return };
        if octets.len() != 32 {
            return; // a test put something else there
        }
        self.needles.lock().unwrap().push(Needle::new("master key", octets));
    }

    /// Every place where a secret was found: log, each file of the data folder but the master key's, each answer.
    pub fn leaks(&self) -> Vec<String> {
        let needles = self.needles.lock().unwrap().clone();
        let mut leaks = Vec::new();
        let mut look = |place: String, octets: &[u8], needles: &[Needle]| {
            leaks.extend(
                search(octets, needles)
                    .into_iter()
                    .map(|f| format!("{place}: {} ({}) at {}", f.secret, f.spelling, f.at)),
            );
        };
        look("log".to_owned(), self.log().as_bytes(), &needles);
        for file in files_below(&self.data_folder()) {
            if file != self.master_key_file() {
                look(file.display().to_string(), &std::fs::read(&file).unwrap(), &needles);
            }
        }
        // An API key is shown once, by the call that makes it; so is an access token.
        let without = |name: &str| needles.iter().filter(|n| n.name != name).cloned().collect::<Vec<Needle>>();
        let (without_keys, without_tokens) = (without("API secret"), without("access token"));
        for exchange in self.api.exchanges() {
            let needles = match exchange.request.as_str() {
                "POST /v1/api-keys" => &without_keys,
                "POST /v1/token" => &without_tokens,
                _ => &needles,
            };
            look(exchange.request, &exchange.answer, needles);
        }
        leaks
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("--- log of signpost serve, last 60 lines ---");
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        } else {
            let leaks = self.leaks();
            assert!(leaks.is_empty(), "secrets found:\n{}", leaks.join("\n"));
        }
    }
}

/// The binary that these tests are about: SIGNPOST_BIN, or the one beside the test executables.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("SIGNPOST_BIN").map_or_else(
        || std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().join("signpost"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run tests/run, or cargo build -p signpost", path.display());
    path
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

/// 32 octets from the kernel.
pub(crate) fn random_octets() -> [u8; 32] {
    let mut octets = [0; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut octets).unwrap();
    octets
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}
