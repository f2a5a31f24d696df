//! The `signpost` binary: commands, and nothing that the crates below could do.
mod config;
mod health;
mod key_watch;
mod master_key;
mod operator;
mod rotation;
mod sandbox;
mod serve;
mod telemetry;
mod verify;

use clap::{Parser, Subcommand};
use config::{Database, ServeArgs, StoreArgs};
use master_key::FirstKey;
use signpost_engine::{Engine, MasterKeyState, SystemClock};
use signpost_keys::SystemRandom;
use signpost_store::{Store, StoreSettings};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

/// Signs mail for other people's software: DKIM with keys that never leave their custody, a durable queue, delivery over SMTP.
#[derive(Parser)]
#[command(name = "signpost", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on loopback and take a message from POST to a verifying inbox
    Sandbox(sandbox::SandboxArgs),
    /// Run the API and the worker
    Serve(Box<ServeArgs>),
    /// Tenants
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// The operator's own zone
    Operator {
        #[command(subcommand)]
        command: operator::OperatorCommand,
    },
    /// The change from one master key to the next
    MasterKey {
        #[command(subcommand)]
        command: rotation::MasterKeyCommand,
    },
    /// Say what a receiver would conclude about a message: DKIM, SPF, DMARC
    Verify(Box<verify::VerifyArgs>),
    /// Say by the exit status whether the process beside this one is ready; for container health checks
    Health(health::HealthArgs),
    /// Print the OpenAPI document
    Openapi,
    /// Bring the database up to date and exit
    Migrate(StoreArgs),
}

#[derive(Subcommand)]
enum TenantCommand {
    /// Make a tenant and print its id and its first API key, once
    Create {
        /// Name, for people
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Sandbox(args) => sandbox::run(args).await,
            Command::Serve(args) => serve::run(*args).await.map(|()| ExitCode::SUCCESS),
            Command::Tenant { command: TenantCommand::Create { name, json, store } } => {
                create_tenant(&name, json, &store).await.map(|()| ExitCode::SUCCESS)
            }
            Command::MasterKey { command } => rotation::run(command).await.map(|()| ExitCode::SUCCESS),
            Command::Operator { command } => operator::run(command).await,
            Command::Verify(args) => Ok(verify::run(*args).await),
            Command::Health(args) => health::run(&args).await.map(|()| ExitCode::SUCCESS),
            Command::Openapi => print(signpost_http::openapi_json().trim_end()).map(|()| ExitCode::SUCCESS),
            Command::Migrate(store) => migrate(&store).await.map(|()| ExitCode::SUCCESS),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done.unwrap_or_else(|error| fail(error.as_ref()))
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "signpost: {}", chain(error));
    ExitCode::FAILURE
}

/// An error with all its causes, and what is wrong with each field where it is about input. For the operator, not for tenants.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    if let Some(signpost_engine::Error::Invalid(faults)) = error.downcast_ref() {
        for fault in faults {
            let place = fault.pointer.as_deref().unwrap_or("").trim_start_matches('/');
            let colon = if place.is_empty() { "" } else { ": " };
            text.push_str(&format!("; {place}{colon}{}", fault.detail));
        }
    }
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}

/// To standard output; a closed pipe is an error, not a panic.
fn print(text: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

async fn open_store(args: &StoreArgs, exclusive: bool) -> Outcome<Store> {
    let (shown, opened) = match args.database()? {
        Database::Sqlite(sqlite_path) => {
            let shown = sqlite_path.display().to_string();
            (shown, Store::open(StoreSettings { sqlite_path, exclusive }).await)
        }
        Database::Postgres(settings) => ("PostgreSQL".to_owned(), Store::connect(settings).await),
    };
    opened.map_err(|error| format!("{shown}: {}", chain(&error)).into())
}

async fn migrate(args: &StoreArgs) -> Outcome<()> {
    telemetry::install(&args.log, args.log_format)?;
    open_store(args, false).await?.close().await;
    Ok(())
}

async fn create_tenant(name: &str, json: bool, args: &StoreArgs) -> Outcome<()> {
    telemetry::install(&args.log, args.log_format)?;
    let store = open_store(args, false).await?;
    let engine = offline_engine(store.clone())?;
    let random = SystemRandom;
    let first = FirstKey::on(&args.database()?);
    if master_key::establish(&engine, &args.master_key_files(), first, &random).await? != MasterKeyState::Unsealed {
        return Err("sealed: without the right master key no API key can be made".into());
    }
    let (tenant, key) = engine.create_tenant(name).await?;
    let id = signpost_engine::ids::public("ten", &tenant.id);
    if json {
        print(&serde_json::json!({"tenant_id": id, "api_key": key.token}).to_string())?;
    } else {
        print(&format!("tenant   {id}\nAPI key  {}\nThe key is shown this once; keep it safe.", key.token))?;
    }
    store.close().await;
    Ok(())
}

/// An engine for commands that neither ask DNS nor send.
fn offline_engine(store: Store) -> Outcome<Engine> {
    let settings = signpost_engine::Settings {
        hostname: "localhost".into(),
        service_domain: None,
        egress_ips: Vec::new(),
        max_message: 25_000_000,
        queue_lifetime_ms: 5 * 86_400_000,
        watch_every_ms: 6 * 3_600_000,
        delivery: signpost_engine::delivery::DeliverySettings {
            relay: None,
            smtp_port: 25,
            in_flight: 1,
            guard: signpost_diagnosis::guard::Guard::default(),
        },
    };
    let dns = signpost_diagnosis::dns::Dns::new(signpost_diagnosis::dns::DnsSettings {
        resolvers: vec![std::net::SocketAddr::from(([127, 0, 0, 1], 53))],
        authority_port: 53,
        guard: signpost_diagnosis::guard::Guard::default(),
    })?;
    Ok(Engine::new(store, dns, Arc::new(SystemClock), Arc::new(SystemRandom), settings))
}
