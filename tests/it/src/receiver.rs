//! The SMTP receiver: tests/tools/smtp_sink.py, and what it recorded.
use crate::judges::python;
use crate::{DEADLINE, Port, Process, repository, wait_for};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::path::PathBuf;
use tempfile::TempDir;

/// A running receiver. Dropped: killed.
pub struct Receiver {
    _process: Process,
    folder: TempDir,
    port: Port,
}

/// One message whose data the receiver got, whatever it answered.
#[derive(Debug, Clone)]
pub struct Received {
    /// MAIL FROM.
    pub mail_from: String,
    /// Accepted RCPT.
    pub rcpt: Vec<String>,
    /// The data, with CRLF line ends.
    pub octets: Vec<u8>,
    /// Whether the session was encrypted.
    pub tls: bool,
    /// EHLO name.
    pub ehlo: String,
    /// What was answered after the data; empty where the connection was dropped.
    pub reply: String,
}

impl Receiver {
    /// One that offers STARTTLS with a self-signed certificate.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With flags of smtp_sink.py: `--no-tls`, `--require-tls`, `--on-127.0.0.2`.
    pub fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("signpost-receiver-").tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["mx.receiver.test".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let port = Port::reserve();
        let mut process = Process::start("the SMTP receiver", &python(), &folder.path().join("log"), |command| {
            command.arg(repository().join("tests/tools/smtp_sink.py"));
            command.arg(port.number().to_string()).arg(folder.path()).args(flags);
        });
        let ready = folder.path().join("ready");
        wait_for("the SMTP receiver listens", DEADLINE, || {
            process.assert_running();
            ready.exists().then_some(())
        });
        Self { _process: process, folder, port }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// From now on `gate` and `greylist` recipients are accepted, also those that wait.
    pub fn open_gate(&self) {
        std::fs::write(self.folder.path().join("open"), "").unwrap();
    }

    /// Every event, in order; see smtp_sink.py.
    pub fn events(&self) -> Vec<Value> {
        let path: PathBuf = self.folder.path().join("events.jsonl");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // A last line without its end is still being written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Messages whose data arrived, in order.
    pub fn messages(&self) -> Vec<Received> {
        self.events().iter().filter(|event| event["event"] == "data").map(received).collect()
    }

    /// Waits until at least `count` messages have arrived and gives them all.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        wait_for(
            &format!("{count} messages at the receiver (events so far: {:?})", self.events().len()),
            DEADLINE,
            || {
                let messages = self.messages();
                (messages.len() >= count).then_some(messages)
            },
        )
    }

    /// Waits for the first message with that recipient.
    pub fn wait_for_recipient(&self, address: &str) -> Received {
        wait_for(&format!("a message for {address} at the receiver"), DEADLINE, || {
            self.messages().into_iter().find(|m| m.rcpt.iter().any(|r| r == address))
        })
    }

    /// Waits until data for a `gate` recipient has arrived and its reply is held back.
    pub fn wait_until_gate_is_reached(&self) {
        wait_for("a message at the receiver's gate", DEADLINE, || {
            self.events().iter().any(|event| event["event"] == "waiting").then_some(())
        });
    }
}

fn received(event: &Value) -> Received {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    Received {
        mail_from: text("mail_from"),
        rcpt: event["rcpt"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned()).collect(),
        octets: STANDARD.decode(text("octets")).unwrap(),
        tls: event["tls"].as_bool().unwrap(),
        ehlo: text("ehlo"),
        reply: text("reply"),
    }
}
