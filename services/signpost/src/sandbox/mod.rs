//! `signpost sandbox`: everything on loopback, the whole flow taken once by itself, then left running to be looked at.
mod client;
mod dns;
mod flow;
mod inbox;
mod spoof;

use crate::config::LogFormat;
use crate::master_key::{FirstKey, KeyFiles};
use crate::{Outcome, master_key, print, serve, telemetry};
use clap::Args;
use flow::{Flow, Report};
use inbox::Inbox;
use signpost_diagnosis::dns::{Dns, DnsSettings};
use signpost_diagnosis::guard::Guard;
use signpost_dkim::SigningDomain;
use signpost_engine::delivery::DeliverySettings;
use signpost_engine::delivery::tls::ClientTls;
use signpost_engine::{Engine, Settings, SystemClock};
use signpost_http::Door;
use signpost_keys::SystemRandom;
use signpost_store::{Store, StoreSettings};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where the sandbox listens when it stays up.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8025);
/// With `--once` nobody has to know the port.
const ONCE_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The sandbox's world: our own zone, the recipient's zone, one host for everything.
const ZONE: &str = "\
test. 60 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 1
test. 60 IN NS ns.test.
ns.test. 60 IN A 127.0.0.1
mail.signpost.test. 60 IN A 127.0.0.1
mail.signpost.test. 60 IN TXT \"v=spf1 a -all\"
bounce.signpost.test. 60 IN MX 10 mail.signpost.test.
bounce.signpost.test. 60 IN TXT \"v=spf1 ip4:127.0.0.1 -all\"
inbox.test. 60 IN MX 10 mx.inbox.test.
mx.inbox.test. 60 IN A 127.0.0.1
spoofing.test. 60 IN TXT \"v=spf1 ip4:127.0.0.1 -all\"
";

/// `signpost sandbox`.
#[derive(Clone, Args)]
pub(crate) struct SandboxArgs {
    /// HTTP address; default: 127.0.0.1:8025, with --once any free port
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Exit after the flow: 0 only if the inbox says dkim=pass and dmarc=pass
    #[arg(long)]
    once: bool,
    /// Standard output is one JSON object: records, message_path, authentication_results
    #[arg(long, requires = "once")]
    json: bool,
    /// Spoil a step and show what follows
    #[arg(long = "break", value_name = "STEP")]
    spoil: Option<Spoil>,
    /// State lies in a fresh folder below `sandbox` in here, and stays
    #[arg(long, env = "SIGNPOST_DATA_DIR", default_value = "./signpost-data")]
    data_dir: PathBuf,
    /// Log filter
    #[arg(long, env = "SIGNPOST_LOG", default_value = "warn")]
    log: String,
    /// `text` or `json`
    #[arg(long, env = "SIGNPOST_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// Which step is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spoil {
    /// A body octet changes between worker and inbox
    Dkim,
    /// Another key is published
    Dns,
    /// A spoofed message (MAIL FROM and d= of one domain, From of another) goes straight to the inbox
    Dmarc,
}

/// Runs the flow; the exit code is DESIGN's.
pub(crate) async fn run(args: SandboxArgs) -> Outcome<ExitCode> {
    telemetry::install(&args.log, args.log_format)?;
    let clock = Arc::new(SystemClock);
    let folder = fresh_folder(&args.data_dir, clock.as_ref())?;
    let zone = dns::SandboxDns::start(ZONE).await?;
    let resolver = Dns::new(DnsSettings {
        resolvers: vec![zone.address()],
        authority_port: zone.address().port(),
        guard: loopback_guard()?,
    })?;
    let shutdown = CancellationToken::new();
    let inbox = Inbox::new(folder.join("received"), resolver.clone(), clock.clone(), args.spoil == Some(Spoil::Dkim))?;
    let smtp = inbox::listen(&inbox, &shutdown).await?;
    let store = Store::open(StoreSettings { sqlite_path: folder.join("signpost.db"), exclusive: true }).await?;
    let settings = settings(smtp.port())?;
    let tls = ClientTls::for_delivery(&settings.delivery)?;
    let engine = Engine::new(store.clone(), resolver, clock, Arc::new(SystemRandom), settings);
    let key_files = KeyFiles::at(folder.join("master.key"));
    master_key::establish(&engine, &key_files, FirstKey::IsMade, &SystemRandom).await?;
    let (_, key) = engine.create_tenant("sandbox").await?;
    let listen = args.listen.unwrap_or(if args.once { ONCE_LISTEN } else { DEFAULT_LISTEN });
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
    let api_address = listener.local_addr()?;
    let background = serve::start_background(&engine, Some(tls), key_files, &shutdown);
    let router = signpost_http::router(engine.clone(), &format!("http://{api_address}"), None);
    let api = tokio::spawn(signpost_http::serve(listener, router, Door::default(), shutdown.clone()));
    let page_listener = TcpListener::bind(ONCE_LISTEN).await?;
    let page_address = page_listener.local_addr()?;
    let pages = signpost_http::inbox_router(inbox.clone());
    let page = tokio::spawn(signpost_http::serve(page_listener, pages, Door::default(), shutdown.clone()));

    let flow = Flow::new(api_address, key.token.clone(), zone, inbox, smtp, args.json, args.spoil);
    let report = flow.take().await;
    if let Ok(report) = &report {
        show(&args, report)?;
        if !args.once {
            print(&format!(
                "\ninbox    http://{page_address}/\nAPI      http://{api_address}/v1   (reference: http://{api_address}/docs)\n\
                 API key  {}\nState lies in {}. Stop with Ctrl-C.",
                key.token,
                folder.display()
            ))?;
            tokio::select! {
                pressed = tokio::signal::ctrl_c() => pressed?,
                () = shutdown.cancelled() => {}
            }
        }
    }
    shutdown.cancel();
    api.await??;
    page.await??;
    let ended = background.end().await;
    store.close().await;
    ended?;
    Ok(if report?.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(args: &SandboxArgs, report: &Report) -> Outcome<()> {
    if args.json {
        return print(&report.json().to_string());
    }
    match &report.authentication_results {
        Some(value) => print(&format!("\nAuthentication-Results: {value}")),
        None => print("\nNothing was received."),
    }
}

/// Only we may look into it: it holds mail and a master key, perhaps on a host that others use too.
fn fresh_folder(data_dir: &Path, clock: &SystemClock) -> Outcome<PathBuf> {
    let run = signpost_engine::ids::fresh(clock, &SystemRandom);
    let folder = data_dir.join("sandbox").join(run);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(std::path::absolute(folder)?)
}

fn loopback_guard() -> Outcome<Guard> {
    Ok(Guard { allow: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?] })
}

fn settings(smtp_port: u16) -> Outcome<Settings> {
    Ok(Settings {
        hostname: "mail.signpost.test".into(),
        service_domain: Some(SigningDomain::parse("signpost.test")?),
        egress_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        max_message: 25_000_000,
        queue_lifetime_ms: 5 * 86_400_000,
        watch_every_ms: 6 * 3_600_000,
        delivery: DeliverySettings { relay: None, smtp_port, in_flight: 8, guard: loopback_guard()? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn nobody_else_can_look_into_the_folder_nor_into_what_is_made_above_it() {
        let above = tempfile::tempdir().unwrap();
        let data_dir = above.path().join("signpost-data");
        let folder = fresh_folder(&data_dir, &SystemClock).unwrap();
        for made in [data_dir.as_path(), &data_dir.join("sandbox"), &folder] {
            assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700, "{}", made.display());
        }
    }
}
