//! rspamd as a judge: it verifies a message by itself, asking a DNS server of the tests.
use crate::dns::{find, give_to_nobody, hand_over};
use crate::{DEADLINE, Port, Process, wait_for};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

/// A running rspamd that checks DKIM, SPF and DMARC and nothing else. Dropped: killed.
pub struct Rspamd {
    process: Process,
    _folder: TempDir,
    port: Port,
    runtime: tokio::runtime::Runtime,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What the SMTP dialogue said around a message.
#[derive(Debug, Clone)]
pub struct Dialogue {
    /// MAIL FROM, without angle brackets.
    pub envelope_sender: String,
    /// RCPT TO, without angle brackets.
    pub recipient: String,
    /// Address of the client.
    pub ip: String,
    /// Name in EHLO.
    pub helo: String,
}

impl Default for Dialogue {
    /// A stranger, whose MAIL FROM helps no domain to an SPF pass.
    fn default() -> Self {
        Self {
            envelope_sender: "bounce@stranger.test".to_owned(),
            recipient: "reader@receiver.test".to_owned(),
            ip: "192.0.2.1".to_owned(),
            helo: "mx.stranger.test".to_owned(),
        }
    }
}

/// Symbols that fired, each with its options. Of one signature, the option is `domain:s=selector`.
#[derive(Debug, Clone)]
pub struct Symbols(BTreeMap<String, Vec<String>>);

impl Symbols {
    /// True if the symbol fired.
    pub fn has(&self, symbol: &str) -> bool {
        self.0.contains_key(symbol)
    }

    /// True if a signature of that domain and selector verifies.
    pub fn allows(&self, domain: &str, selector: &str) -> bool {
        let wanted = format!("{domain}:s={selector}");
        self.0.get("R_DKIM_ALLOW").is_some_and(|options| options.contains(&wanted))
    }
}

impl Rspamd {
    /// Starts one that asks `dns`, and waits until it answers.
    pub fn start(dns: SocketAddr) -> Self {
        let program = find("rspamd", "rspamd");
        let folder = tempfile::Builder::new().prefix("signpost-rspamd-").tempdir().unwrap();
        let port = Port::reserve();
        let config = folder.path().join("rspamd.conf");
        std::fs::write(&config, settings(folder.path(), port.number(), dns)).unwrap();
        // Of all top-level domains these tests need one; the list that comes with rspamd takes it seconds to compile.
        std::fs::write(folder.path().join("top-level-domains"), "test\n").unwrap();
        give_to_nobody(folder.path());
        // SIGTERM where the test is killed: a main process that is killed itself leaves its workers behind.
        let mut process =
            Process::start("rspamd", &find("setpriv", "util-linux"), &folder.path().join("output"), |command| {
                command
                    .args(["--pdeathsig", "TERM", "--"])
                    .arg(&program)
                    .arg("-f")
                    .arg("-c")
                    .arg(&config)
                    .current_dir(folder.path());
                hand_over(command);
            });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let connection = wait_for("rspamd listens", 2 * DEADLINE, || {
            process.assert_running();
            runtime.block_on(connect(address)).ok()
        });
        Self { process, _folder: folder, port, runtime, connection: Some(connection) }
    }

    /// What it says about a message that came in such a dialogue.
    pub fn check(&mut self, message: &[u8], dialogue: &Dialogue) -> Symbols {
        self.process.assert_running();
        let address = SocketAddr::from(([127, 0, 0, 1], self.port.number()));
        let request = hyper::Request::post("/checkv2")
            .header("Host", address.to_string())
            .header("From", &dialogue.envelope_sender)
            .header("Rcpt", &dialogue.recipient)
            .header("IP", &dialogue.ip)
            .header("Helo", &dialogue.helo)
            .body(Full::new(Bytes::copy_from_slice(message)))
            .unwrap();
        let kept = self.connection.take().filter(|kept| !kept.is_closed());
        let (connection, status, body) = self
            .runtime
            .block_on(async {
                tokio::time::timeout(DEADLINE, async {
                    let mut connection = match kept {
                        Some(kept) => kept,
                        None => connect(address).await.unwrap(),
                    };
                    if connection.ready().await.is_err() {
                        connection = connect(address).await.unwrap();
                    }
                    let (parts, body) = connection.send_request(request).await.unwrap().into_parts();
                    (connection, parts.status, body.collect().await.unwrap().to_bytes())
                })
                .await
            })
            .expect("rspamd answers");
        self.connection = Some(connection);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert!(status.is_success(), "rspamd answers {status}: {answer}");
        let symbols = answer["symbols"].as_object().unwrap_or_else(|| panic!("rspamd answers {answer}"));
        let options = |symbol: &Value| {
            let texts = symbol["options"].as_array().into_iter().flatten();
            texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        Symbols(symbols.iter().map(|(name, symbol)| (name.clone(), options(symbol))).collect())
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Only what verifies; nobody is trusted, so that a message from loopback is checked as one from afar.
fn settings(folder: &Path, port: u16, dns: SocketAddr) -> String {
    let at = folder.display();
    let plugins = "/usr/share/rspamd/plugins";
    format!(
        "options {{ pidfile = \"{at}/pid\"; tempdir = \"{at}\"; temp_dir = \"{at}\"; cache_file = \"{at}/symbols\"; rrd = \"\";\n\
         control_socket = \"{at}/control mode=0600\"; url_tld = \"{at}/top-level-domains\"; filters = \"dkim\"; local_addrs = [];\n\
         dns {{ nameserver = [\"{dns}\"]; timeout = 5s; retransmits = 3; sockets = 4; enable_dnssec = false; }} }}\n\
         logging {{ type = \"file\"; filename = \"{at}/log\"; level = \"warning\"; }}\n\
         worker \"normal\" {{ bind_socket = \"127.0.0.1:{port}\"; count = 1; }}\n\
         metric \"default\" {{ actions {{ reject = 1000; }} }}\n\
         modules {{ path = \"{plugins}/spf.lua\"; path = \"{plugins}/dmarc.lua\"; }}\n\
         dkim {{ check_local = true; check_authed = true; trusted_only = false; skip_multi = false; }}\n\
         spf {{ check_local = true; check_authed = true; }}\n\
         dmarc {{ check_local = true; check_authed = true; }}\n"
    )
}
