//! The product as a company would run it, with what it needs around it.
use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use signpost_it::{App, AppBuilder, Domain, Named, Port, PostgresServer, Process, Tenant, World, enabled_domain};

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// Whether a worker runs in the process: with and without; on SQLite it always does.
    pub(crate) fn delivers(self) -> &'static [bool] {
        match self {
            Self::Sqlite => &[true],
            Self::Postgres => &[false, true],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// A running server with one enabled domain.
pub(crate) struct Server {
    /// First, so that it ends before what it talks to.
    app: App,
    pub(crate) tenant: Tenant,
    pub(crate) domain: Domain,
    pub(crate) postgres: Option<PostgresOnTcp>,
    _sink: Option<Process>,
    _named: Named,
}

/// PostgreSQL on loopback TCP, with its data on a disk.
pub(crate) struct PostgresOnTcp {
    server: PostgresServer,
    port: Port,
}

impl PostgresOnTcp {
    pub(crate) fn start() -> Self {
        let port = Port::reserve();
        let server = PostgresServer::start_on_tcp(&std::env::temp_dir(), port.number(), &["synchronous_commit=on"]);
        server.sql("postgres", "CREATE DATABASE signpost");
        Self { server, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn sql(&self, text: &str) -> String {
        self.server.sql("signpost", text)
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/signpost", self.port())
    }

    /// The id of the process that is the parent of all the others.
    pub(crate) fn pid(&self) -> Result<u32, Box<dyn std::error::Error>> {
        let text = std::fs::read_to_string(self.server.folder().join("postmaster.pid"))?;
        Ok(text.lines().next().unwrap_or_default().parse()?)
    }
}

/// What `start` starts.
pub(crate) struct Wanted {
    pub(crate) database: Database,
    pub(crate) algorithm: &'static str,
    /// A worker that delivers to Postfix's smtp-sink; else `api` alone.
    pub(crate) delivers: bool,
}

impl Server {
    pub(crate) fn start(wanted: &Wanted) -> Self {
        let named = World::zones().start();
        let postgres = (wanted.database == Database::Postgres).then(PostgresOnTcp::start);
        let sink_port = Port::reserve();
        // As it runs by default, not as a test that looks for secrets wants it.
        let mut app: AppBuilder = App::with().dns(&named).env("SIGNPOST_LOG", "info").env("RUST_BACKTRACE", "");
        if let Some(postgres) = &postgres {
            app = app.env("SIGNPOST_DATABASE_URL", postgres.url());
        }
        let mut sink = None;
        if wanted.delivers {
            sink = Some(smtp_sink(sink_port.number()));
            app = app.env("SIGNPOST_SMTP_RELAY", format!("smtp://127.0.0.1:{}", sink_port.number()));
        } else {
            app = app.env("SIGNPOST_ROLES", "api");
        }
        let app = app.start();
        let tenant = app.tenant("Load");
        let domain = enabled_domain(&tenant, &named, "example.test", wanted.algorithm);
        Self { app, tenant, domain, postgres, _sink: sink, _named: named }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.app.address()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.app.pid()
    }

    pub(crate) fn token(&self) -> &str {
        &self.tenant.token
    }

    /// A JSON message of about 2 KB.
    pub(crate) fn json_message(&self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&crate::texts::prose(1_400)).replace("\r\n", "\n");
        json!({
            "from": format!("Example Shop <orders@{}>", self.domain.name),
            "to": ["Ada Example <ada@receiver.test>"],
            "subject": "Your order 4711 is on its way",
            "text": text,
        })
        .to_string()
        .into_bytes()
    }
}

impl Drop for Server {
    /// The mail of a load run goes unread: the search for secrets in it would take longer than the run.
    fn drop(&mut self) {
        self.app.kill();
        let folder = self.app.data_folder();
        let _ = std::fs::remove_dir_all(&folder);
        let _ = std::fs::create_dir(&folder);
    }
}

/// Postfix's sink: takes everything, keeps nothing.
fn smtp_sink(port: u16) -> Process {
    let log = std::env::temp_dir().join(format!("signpost-load-sink-{port}.log"));
    Process::start("smtp-sink", Path::new("smtp-sink"), &log, |command| {
        command.args(["-u", "nobody", &format!("127.0.0.1:{port}"), "1000"]);
    })
}
