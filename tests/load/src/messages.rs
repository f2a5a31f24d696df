//! (d) `POST /v1/messages`, durable, beside pgbench's insert of one row of the same size.
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use signpost_dkim::KeyAlgorithm;

use crate::client::{Call, repeat};
use crate::report::{median, note, table};
use crate::server::{Database, PostgresOnTcp, Server, Wanted};
use crate::signing::key_costs;
use crate::{Result, cpu, texts};

const CONNECTIONS: usize = 128;
const LENGTH: Duration = Duration::from_secs(5);

pub(crate) fn compare(rounds: usize) -> Result<()> {
    for database in [Database::Postgres, Database::Sqlite] {
        for (name, algorithm) in [("ed25519", KeyAlgorithm::Ed25519), ("rsa-2048", KeyAlgorithm::Rsa2048)] {
            for &delivers in database.delivers() {
                one(rounds, &Wanted { database, algorithm: name, delivers }, algorithm)?;
            }
        }
    }
    Ok(())
}

fn one(rounds: usize, wanted: &Wanted, algorithm: KeyAlgorithm) -> Result<()> {
    let server = Server::start(wanted);
    let message = server.json_message();
    let call = Call::post("/v1/messages", server.token(), "application/json", &message, 202);
    let accepted: Value = server.tenant.api.post("/v1/messages", &serde_json::from_slice(&message)?).expect(202).json();
    let size = usize::try_from(accepted["size"].as_u64().unwrap_or_default())?;
    // The reference is a PostgreSQL server in either case: the same one, or one beside the server on SQLite.
    let beside;
    let reference = match &server.postgres {
        Some(postgres) => postgres,
        None => {
            beside = PostgresOnTcp::start();
            &beside
        }
    };
    reference.sql("CREATE TABLE load_rows (id BIGSERIAL PRIMARY KEY, octets BYTEA NOT NULL)");
    repeat(server.address(), &call, CONNECTIONS, Duration::from_secs(1), None)?.speed()?;
    let mut results = Vec::new();
    for _ in 0..rounds {
        let inserts = pgbench(reference, size)?;
        let (sign, verify) = key_costs(algorithm)?;
        let spent = || -> Result<[Duration; 2]> {
            let sql = match &server.postgres {
                Some(postgres) => cpu::of_family(postgres.pid()?),
                None => cpu::of_threads(server.pid(), "sqlx-sqlite"),
            };
            Ok([cpu::of_process(server.pid()), sql])
        };
        let before = spent()?;
        let run = repeat(server.address(), &call, CONNECTIONS, LENGTH, None)?;
        let after = spent()?;
        let speed = run.speed()?;
        let each = |at: usize| after[at].saturating_sub(before[at]).as_secs_f64() * 1e6 / run.answers as f64;
        let signing = (sign + verify).as_secs_f64() * 1e6;
        let rest = each(0) - signing - if server.postgres.is_none() { each(1) } else { 0.0 };
        results.push(vec![speed, inserts, signing, each(1), rest, run.percentile(50), run.percentile(99)]);
    }
    let title = format!(
        "(d) POST /v1/messages, {}, {}, {size} octets stored, {}; CPU microseconds a message",
        wanted.algorithm,
        wanted.database.name(),
        if wanted.delivers { "a worker delivering to smtp-sink meanwhile" } else { "role api alone" },
    );
    let columns = [
        "messages a second",
        "pgbench inserts",
        "sign and verify",
        "SQL",
        "HTTP and the rest",
        "median, ms",
        "99 %, ms",
    ];
    let medians = table(&title, &columns, 0, &results)?;
    let whole = medians[2] + medians[3] + medians[4];
    let share = |at: usize| 100.0 * medians[at] / whole;
    note(&format!(
        "shares of the CPU time: signing {:.0} %, SQL (the database's own) {:.0} %, HTTP and the rest {:.0} %",
        share(2),
        share(3),
        share(4)
    ))?;
    let goal = match (wanted.database, algorithm, wanted.delivers) {
        (Database::Postgres, KeyAlgorithm::Ed25519, false) => " (goal: at least 0.50)",
        _ => "",
    };
    let ratio = median(results.iter().map(|round| round[0] / round[1]));
    note(&format!("signpost / pgbench: {ratio:.3}{goal}"))
}

/// Inserts of one row of so many octets a second, each its own transaction, over TCP; the octets go over the wire each time.
fn pgbench(postgres: &PostgresOnTcp, size: usize) -> Result<f64> {
    postgres.sql("TRUNCATE load_rows");
    let script = std::env::temp_dir().join(format!("signpost-load-{}.sql", postgres.port()));
    std::fs::write(&script, "INSERT INTO load_rows (octets) VALUES (convert_to(:octets, 'UTF8'));\n")?;
    let text = String::from_utf8_lossy(&texts::prose(size)).replace("\r\n", "  ");
    let output = Command::new("pgbench")
        .args(["-h", "127.0.0.1", "-p", &postgres.port().to_string(), "-U", "postgres", "-n", "-M", "prepared"])
        .args(["-c", &CONNECTIONS.to_string(), "-j", "2", "-T", &LENGTH.as_secs().to_string()])
        .arg("-D")
        .arg(format!("octets={}", &text[..size]))
        .arg("-f")
        .arg(&script)
        .arg("signpost")
        .output()
        .map_err(|e| format!("pgbench cannot be run: {e}"))?;
    std::fs::remove_file(&script)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| {
        format!("no tps in what pgbench printed: {text} {}", String::from_utf8_lossy(&output.stderr)).into()
    })
}
