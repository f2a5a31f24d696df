//! OpenDKIM as a judge of RSA signatures: its test mode over files, keys from a DNS server of the tests.
use crate::Process;
use crate::dns::{find, give_to_nobody, hand_over};
use std::net::SocketAddr;
use std::path::PathBuf;
use tempfile::TempDir;

/// OpenDKIM 2.11 with its settings. It knows RSA only.
pub struct OpenDkim {
    program: PathBuf,
    folder: TempDir,
}

/// What it said about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDkimVerdict {
    /// True if it names a signature that verifies.
    pub passes: bool,
    /// Its words.
    pub said: String,
}

impl OpenDkim {
    /// One that asks `dns`.
    pub fn new(dns: SocketAddr) -> Self {
        let program = find("opendkim", "opendkim");
        let folder = tempfile::Builder::new().prefix("signpost-opendkim-").tempdir().unwrap();
        let at = folder.path();
        let resolver = at.join("unbound.conf");
        std::fs::write(
            &resolver,
            format!(
                "server:\n  chroot: \"\"\n  username: \"\"\n  use-syslog: no\n  do-ip6: no\n  module-config: \"iterator\"\n  \
                 do-not-query-localhost: no\n  local-zone: \"test.\" nodefault\n\
                 forward-zone:\n  name: \".\"\n  forward-addr: {}@{}\n",
                dns.ip(),
                dns.port()
            ),
        )
        .unwrap();
        let settings = format!("Mode v\nSyslog no\nDNSTimeout 20\nResolverConfiguration {}\n", resolver.display());
        std::fs::write(at.join("opendkim.conf"), settings).unwrap();
        give_to_nobody(at);
        Self { program, folder }
    }

    /// A verdict for each message, in order. Many at once are much faster than one after the other.
    pub fn verify(&self, messages: &[Vec<u8>]) -> Vec<OpenDkimVerdict> {
        let files: Vec<String> = (0..messages.len()).map(|n| format!("{}/{n}", self.folder.path().display())).collect();
        for (file, message) in files.iter().zip(messages) {
            std::fs::write(file, message).unwrap();
        }
        give_to_nobody(self.folder.path());
        let mut verdicts = Vec::new();
        // It stops at a file that it cannot take; the next call goes on behind it.
        while verdicts.len() < files.len() {
            let before = verdicts.len();
            let text = self.run(&files[before..]);
            for file in &files[before..] {
                let prefix = format!("opendkim: {file}: ");
                let Some(said) = text.lines().find_map(|line| line.strip_prefix(&prefix)) else { break };
                verdicts.push(OpenDkimVerdict { passes: is_pass(said), said: said.to_owned() });
            }
            assert!(verdicts.len() > before, "OpenDKIM says nothing of {}: {text}", files[before]);
        }
        verdicts
    }

    /// Its exit status says nothing: it is 0 for a signature that fails too.
    fn run(&self, files: &[String]) -> String {
        let mut command = Process::tied_to_us(&self.program);
        command.args(["-f", "-v", "-x"]).arg(self.folder.path().join("opendkim.conf")).args(["-t", &files.join(",")]);
        hand_over(&mut command);
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat()
    }
}

fn is_pass(said: &str) -> bool {
    said.starts_with("verification (") && said.ends_with(") succeeded")
}
