//! (c) `POST /v1/sign` with everything on: authentication, authorization, RSA-2048, the check of the own signature, the log.
use std::time::Duration;

use signpost_dkim::KeyAlgorithm;

use crate::client::{Call, repeat};
use crate::report::{Comparison, note, table};
use crate::server::{Database, Server, Wanted};
use crate::signing::{key_costs, openssl_rsa2048};
use crate::{Result, cpu, texts};

const CONNECTIONS: usize = 32;
const LENGTH: Duration = Duration::from_secs(5);

pub(crate) fn compare(rounds: usize) -> Result<()> {
    let wanted = Wanted { database: Database::Sqlite, algorithm: "rsa-2048", delivers: true };
    let server = Server::start(&wanted);
    let message = String::from_utf8_lossy(&texts::message_2_kb()).replace("example.com", &server.domain.name);
    let call = Call::post("/v1/sign", server.token(), "message/rfc822", message.as_bytes(), 200);
    repeat(server.address(), &call, CONNECTIONS, Duration::from_secs(1), None)?.speed()?;
    let (mut speeds, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let reference = openssl_rsa2048(&["-multi", "2", "-seconds", "3"])?;
        let (sign, verify) = key_costs(KeyAlgorithm::Rsa2048)?;
        let before = cpu::of_process(server.pid());
        let run = repeat(server.address(), &call, CONNECTIONS, LENGTH, None)?;
        let spent = cpu::of_process(server.pid()).saturating_sub(before);
        speeds.push(vec![run.speed()?, reference]);
        let each = spent.as_secs_f64() / run.answers as f64;
        let above = each - sign.as_secs_f64() - verify.as_secs_f64();
        let micros = [each, sign.as_secs_f64(), verify.as_secs_f64(), above].map(|seconds| seconds * 1e6);
        costs.push([&micros[..], &[run.percentile(50), run.percentile(99)]].concat());
    }
    Comparison {
        title: "(c) POST /v1/sign, RSA-2048, 2 KB, 32 connections; requests a second, the load generator on the same cores",
        columns: &["signpost", "openssl speed -multi 2"],
        reference: 1,
        goal: 0.72,
        digits: 0,
    }
    .print(&speeds)?;
    let columns = ["server, each", "signature", "verification", "above these", "median, ms", "99 %, ms"];
    let title = "(c) CPU time of the server in microseconds a request; latency";
    let medians = table(title, &columns, 1, &costs)?;
    note(&format!("above signature and verification: {:.1} us (goal: at most 60)", medians[3]))
}
