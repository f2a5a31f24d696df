//! How long the requests of others take while 1,000 slow connections are there (slowhttptest: headers, body, read).
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::client::{Call, repeat};
use crate::report::{note, table};
use crate::server::{Database, Server, Wanted};
use crate::{Result, texts};

/// Clients that send a request each 40 ms.
const CONNECTIONS: usize = 8;
const PACE: Duration = Duration::from_millis(40);
const LENGTH: Duration = Duration::from_secs(10);
/// When all slow connections are there.
const ALL_THERE: Duration = Duration::from_secs(4);

pub(crate) fn compare(rounds: usize) -> Result<()> {
    let wanted = Wanted { database: Database::Sqlite, algorithm: "rsa-2048", delivers: true };
    let server = Server::start(&wanted);
    let message = String::from_utf8_lossy(&texts::message_2_kb()).replace("example.com", &server.domain.name);
    let call = Call::post("/v1/sign", server.token(), "message/rfc822", message.as_bytes(), 200);
    let others = || repeat(server.address(), &call, CONNECTIONS, LENGTH, Some(PACE));
    others()?.speed()?;
    let url = format!("http://{}/v1/sign", server.address());
    for (name, flag) in [("headers", "-H"), ("body", "-B"), ("read", "-X")] {
        let mut results = Vec::new();
        for _ in 0..rounds {
            let before = others()?;
            let mut attack = Command::new("slowhttptest")
                .args([flag, "-c", "1000", "-r", "500", "-i", "5", "-l", "20", "-p", "3", "-u", &url])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|e| format!("slowhttptest cannot be run: {e}"))?;
            std::thread::sleep(ALL_THERE);
            let during = others();
            attack.kill()?;
            attack.wait()?;
            let during = during?;
            during.speed()?;
            let (calm, loud) = (before.percentile(99), during.percentile(99));
            results.push(vec![calm, loud, loud / calm, during.answers as f64]);
        }
        let title = format!(
            "(slow) POST /v1/sign by {CONNECTIONS} clients, a request each 40 ms, beside 1,000 connections slow in: {name}"
        );
        let columns = ["99 % before, ms", "99 % meanwhile, ms", "ratio", "right answers"];
        let medians = table(&title, &columns, 2, &results)?;
        note(&format!("99 % meanwhile / before: {:.2} (goal: at most 2.0)", medians[2]))?;
    }
    Ok(())
}
