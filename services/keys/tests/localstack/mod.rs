//! LocalStack, unmodified, as a child: a KMS that nobody here has altered. It knows RSA, not Ed25519.
use aws_config::SdkConfig;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running server. Dropped: killed.
pub(crate) struct LocalStack {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl LocalStack {
    /// `None` where `tests/run --long` has not installed it.
    pub(crate) fn start() -> Option<Self> {
        let python = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/.venv-localstack/bin/python"));
        if !python.exists() {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // Bound and let go: whoever takes it meanwhile makes the start below fail, not the test pass.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(python)
            .args(["-m", "localstack.runtime.main"])
            .current_dir(folder.path())
            .env("SERVICES", "kms,sts")
            .env("STRICT_SERVICE_LOADING", "1")
            .env("GATEWAY_LISTEN", address.to_string())
            // Its usual server listens on all addresses.
            .env("GATEWAY_SERVER", "hypercorn")
            .env("DISABLE_EVENTS", "1")
            .env("SKIP_SSL_CERT_DOWNLOAD", "1")
            .env("DNS_ADDRESS", "0")
            .env("FILESYSTEM_ROOT", folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { child, address, folder };
        let started = Instant::now();
        while !server.is_ready() {
            let ended = server.child.try_wait().unwrap();
            let late = started.elapsed() > Duration::from_secs(120);
            let log = server.folder.path().join("log");
            assert!(
                ended.is_none() && !late,
                "LocalStack does not start ({ended:?}):\n{}",
                std::fs::read_to_string(log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    fn is_ready(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            write!(stream, "GET /_localstack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        ask().is_ok_and(|answer| answer.contains(" 200") && answer.contains("\"kms\""))
    }

    /// Settings that lead to it.
    pub(crate) async fn config(&self) -> SdkConfig {
        crate::kms_server::config(&format!("http://{}", self.address)).await
    }
}

impl Drop for LocalStack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
