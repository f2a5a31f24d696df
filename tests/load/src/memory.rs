//! (e) Peak memory for one large message, above that of the idle process.
use std::thread::sleep;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::report::{note, table};
use crate::server::{Database, Server, Wanted};
use crate::{Result, cpu, texts};

/// SIGNPOST_MAX_MESSAGE.
const LARGEST: usize = 25_000_000;

/// A way to post a large message.
#[derive(Clone, Copy)]
enum Form {
    Raw,
    Json,
}

pub(crate) fn compare(rounds: usize) -> Result<()> {
    for (form, title, goal) in [
        (Form::Raw, "a raw message of 25 MB", 1.5),
        (Form::Json, "a JSON message with an attachment of 18 MB, built just under 25 MB", 3.0),
    ] {
        for database in [Database::Sqlite, Database::Postgres] {
            for &delivers in database.delivers() {
                let mut results = Vec::new();
                for _ in 0..rounds {
                    results.push(one(form, &Wanted { database, algorithm: "ed25519", delivers })?);
                }
                let role = if delivers { "accepted and delivered to smtp-sink" } else { "accepted, role api alone" };
                let title = format!("(e) {title}, {}, {role}; MB", database.name());
                let columns = ["idle", "peak", "message", "(peak - idle) / message"];
                let medians = table(&title, &columns, 2, &results)?;
                note(&format!("{:.2} times the message (goal: at most {goal:.1})", medians[3]))?;
            }
        }
    }
    Ok(())
}

/// A process of its own each time: what an earlier message left in the allocator would hide what this one needs.
fn one(form: Form, wanted: &Wanted) -> Result<Vec<f64>> {
    let server = Server::start(wanted);
    let api = &server.tenant.api;
    // So that what is made once, connections for example, is there.
    api.post("/v1/messages", &serde_json::from_slice(&server.json_message())?).expect(202);
    sleep(Duration::from_secs(2));
    let (path, content_type, body) = match form {
        Form::Raw => ("/v1/messages/raw", "message/rfc822", raw(&server.domain.name)),
        Form::Json => ("/v1/messages", "application/json", composed(&server.domain.name)),
    };
    let idle = cpu::resident(server.pid())?;
    cpu::forget_peak(server.pid())?;
    let accepted = api.call("POST", path, Some(content_type), body).expect(202).json();
    if wanted.delivers {
        api.message_with_status(accepted["id"].as_str().unwrap_or_default(), "delivered");
    }
    let peak = cpu::peak(server.pid())?;
    let size = accepted["size"].as_u64().unwrap_or_default();
    Ok(vec![idle as f64 / 1e6, peak as f64 / 1e6, size as f64 / 1e6, peak.saturating_sub(idle) as f64 / size as f64])
}

fn raw(domain: &str) -> Vec<u8> {
    let header = format!(
        "From: orders@{domain}\r\nTo: ada@receiver.test\r\nSubject: Large\r\nMIME-Version: 1.0\r\n\
         Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    );
    // Room for Date and Message-ID, which are added.
    let mut body = texts::base64_lines(LARGEST - header.len() - 300);
    let lines = body.len() / 78 - 3;
    body.truncate(lines * 78);
    [header.as_bytes(), &body].concat()
}

fn composed(domain: &str) -> Vec<u8> {
    // Base64 in lines of 76: 78 octets for 57.
    let content = texts::base64_lines((LARGEST - 3_000) / 78 * 57 - 400);
    let content = &content[..(LARGEST - 3_000) / 78 * 57 - 400];
    json!({
        "from": format!("orders@{domain}"),
        "to": ["ada@receiver.test"],
        "subject": "Large",
        "text": "See the attachment.\n",
        "attachments": [{
            "filename": "large.bin",
            "content_type": "application/octet-stream",
            "content": STANDARD.encode(content),
        }],
    })
    .to_string()
    .into_bytes()
}
