//! The KMS server of the tests (tests/tools/kms_server.py) as a child, and a custody that speaks to it.
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::Credentials;
use signpost_keys::{AwsKmsCustody, EnvelopeCustody, EnvelopeSettings, SystemRandom};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running server. Dropped: killed.
pub(crate) struct KmsServer {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl KmsServer {
    pub(crate) fn start() -> Self {
        let repository = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let python = repository.join("tests/.venv/bin/python");
        assert!(python.exists(), "{} is missing: run tests/run once, it makes it", python.display());
        let folder = TempDir::new().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // Bound and let go: whoever takes it meanwhile makes the start below fail, not the test pass.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(python)
            .arg(repository.join("tests/tools/kms_server.py"))
            .arg(address.port().to_string())
            .arg(folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !folder.path().join("ready").exists() {
            let ended = child.try_wait().unwrap();
            let late = started.elapsed() > Duration::from_secs(60);
            assert!(
                ended.is_none() && !late,
                "the KMS server does not start ({ended:?}):\n{}",
                std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, _folder: folder }
    }

    /// Settings that lead to it.
    pub(crate) async fn config(&self) -> SdkConfig {
        config(&format!("http://{}", self.address)).await
    }

    /// A custody with its keys there.
    pub(crate) async fn custody(&self) -> AwsKmsCustody {
        AwsKmsCustody::with(&self.config().await)
    }

    /// A custody whose keys are wrapped there, and kept unwrapped for so long.
    pub(crate) async fn envelope(&self, lifetime: Duration) -> EnvelopeCustody {
        let settings = EnvelopeSettings { lifetime, ..EnvelopeSettings::default() };
        self.custody().await.envelope(Arc::new(SystemRandom), settings)
    }

    /// From now on Sign goes wrong in that way.
    pub(crate) fn fault(&self, kind: &str) {
        let answer = self.ask("POST", &format!("/_test/fault?kind={kind}"));
        assert!(answer.contains(" 200 "), "{answer}");
    }

    /// How often an operation was called.
    pub(crate) fn calls(&self, operation: &str) -> u64 {
        let answer = self.ask("GET", "/_test/calls");
        let after = answer.split_once(&format!("\"{operation}\": ")).map_or("0", |(_, after)| after);
        after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: kms\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for KmsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings that lead to this address.
pub(crate) async fn config(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .load()
        .await
}
