//! A receiver that verifies: Postfix, with rspamd as its milter, which asks our BIND.
use crate::{DEADLINE, Named, Port, Process, find, repository, unfolded_field, wait_for};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// What the templates call the name that `Authentication-Results` begins with (RFC 8601 2.5, authserv-id).
const HOSTNAME: &str = "mx.receiver.test";
/// Who delivers into the mailbox.
const NOBODY: u32 = 65_534;

/// The MX of `receiver.test`. Dropped: killed.
pub struct Postfix {
    master: Process,
    rspamd: Process,
    folder: TempDir,
    port: Port,
}

/// A message as it lies in the mailbox.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// MAIL FROM, as Postfix saw it.
    pub mail_from: String,
    /// The message with CRLF line ends and with what the receiver put on top.
    pub octets: Vec<u8>,
    /// What rspamd found: the parts of its `Authentication-Results` (RFC 8601 2.2), such as `dkim=pass header.d=...`.
    pub results: Vec<String>,
}

impl Postfix {
    /// Starts both and waits until they listen.
    pub fn start(named: &Named) -> Self {
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        assert!(root, "Postfix can be started by root only: run tests/run as root");
        let folder = tempfile::Builder::new().prefix("signpost-postfix-").tempdir().unwrap();
        let (port, milter) = (Port::reserve(), Port::reserve());
        let at = folder.path();
        write_files(at, &port, &milter, named);
        let rspamd = start_rspamd(at, &milter);
        let master = start_postfix(at, &port);
        Self { master, rspamd, folder, port }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Everything in the mailbox.
    pub fn messages(&self) -> Vec<Delivered> {
        // Maildir: what lies in `new` is complete.
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("mail/inbox/new")) else { return Vec::new() };
        entries.map(|entry| delivered(&std::fs::read(entry.unwrap().path()).unwrap())).collect()
    }

    /// Waits for the first message to that recipient.
    pub fn wait_for_recipient(&mut self, address: &str) -> Delivered {
        wait_for(&format!("a message for {address} in Postfix's mailbox"), DEADLINE, || {
            self.master.assert_running();
            self.rspamd.assert_running();
            let is_it = |m: &Delivered| unfolded_field(&m.octets, "Delivered-To") == [address];
            self.messages().into_iter().find(is_it)
        })
    }

    /// What both logged so far.
    pub fn log(&self) -> String {
        let maillog = std::fs::read_to_string(self.folder.path().join("maillog")).unwrap_or_default();
        format!("{}{maillog}{}", self.master.output(), self.rspamd.output())
    }
}

impl Delivered {
    /// All that was found by one method: `dkim`, `spf`, `dmarc`.
    pub fn found(&self, method: &str) -> Vec<&str> {
        let is_it = |result: &&str| result.split_once('=').is_some_and(|(name, _)| name == method);
        self.results.iter().map(String::as_str).filter(is_it).collect()
    }
}

fn delivered(file: &[u8]) -> Delivered {
    let text = String::from_utf8_lossy(file);
    let octets = text.replace('\n', "\r\n").into_bytes();
    let one = |name: &str| {
        let all = unfolded_field(&octets, name);
        assert_eq!(all.len(), 1, "{name} in\n{text}");
        all[0].clone()
    };
    let (mail_from, written) = (one("Return-Path"), one("Authentication-Results"));
    let mut parts = written.split(';').map(|part| part.trim().to_owned());
    assert_eq!(parts.next().as_deref(), Some(HOSTNAME), "{written}");
    Delivered { mail_from: mail_from.trim_matches(['<', '>']).to_owned(), results: parts.collect(), octets }
}

fn write_files(at: &Path, port: &Port, milter: &Port, named: &Named) {
    // Each of their processes gives root up and still has to reach what is its own.
    std::fs::set_permissions(at, PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["spool", "data", "mail", "rspamd"] {
        std::fs::create_dir(at.join(name)).unwrap();
    }
    for name in ["main.cf", "master.cf", "rspamd.conf"] {
        let template = std::fs::read_to_string(repository().join("tests/tools/mx").join(name)).unwrap();
        let filled = template
            .replace("@FOLDER@", &at.display().to_string())
            .replace("@PORT@", &port.number().to_string())
            .replace("@MILTER_PORT@", &milter.number().to_string())
            .replace("@DNS_PORT@", &named.address().port().to_string());
        std::fs::write(at.join(name), filled).unwrap();
    }
    let certified = rcgen::generate_simple_self_signed(vec![HOSTNAME.to_owned()]).unwrap();
    std::fs::write(at.join("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(at.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(at.join("key.pem"), PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(at.join("mail"), Some(NOBODY), Some(NOBODY)).unwrap();
    run(Command::new("chown").arg("postfix:").arg(at.join("data")));
    run(Command::new("chown").arg("_rspamd:").arg(at.join("rspamd")));
}

/// A program that changes its user forgets that it is to die with us, and its children outlive it. In a PID namespace nothing
/// outlives the first process, and that is a shell which forgets nothing.
fn start_contained(what: &str, log: &Path, program: impl FnOnce(&mut Command)) -> Process {
    Process::start(what, &find("unshare", "util-linux"), log, |command| {
        command.args(["--pid", "--fork", "--kill-child", "--", "sh", "-c", "\"$@\"; exit $?", "sh"]);
        program(command);
    })
}

fn start_rspamd(at: &Path, milter: &Port) -> Process {
    let mut process = start_contained("rspamd", &at.join("rspamd.log"), |command| {
        command.arg(find("rspamd", "rspamd"));
        command.args(["-f", "-u", "_rspamd", "-g", "_rspamd", "-c"]).arg(at.join("rspamd.conf"));
    });
    wait_for("rspamd listens", DEADLINE, || {
        process.assert_running();
        TcpStream::connect((Ipv4Addr::LOCALHOST, milter.number())).ok().map(drop)
    });
    process
}

fn start_postfix(at: &Path, port: &Port) -> Process {
    // Makes the folders of the queue.
    run(Command::new(find("postfix", "postfix")).arg("-c").arg(at).arg("check"));
    let mut process = start_contained("Postfix", &at.join("master.log"), |command| {
        command.arg("/usr/lib/postfix/sbin/master").arg("-d").arg("-c").arg(at).env("MAIL_CONFIG", at);
    });
    wait_for("Postfix listens", DEADLINE, || {
        process.assert_running();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).ok().map(drop)
    });
    process
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
