//! `signpost operator records` and `signpost operator check`: what must be published for the service domain, and whether it is.
use crate::config::{AuthorityArgs, ConfigError, DnsArgs, ServiceArgs, UpdateArgs, host_name};
use crate::{Outcome, print};
use clap::{Args, Subcommand, ValueEnum};
use signpost_diagnosis::dns::Dns;
use signpost_diagnosis::update::DnsUpdate;
use signpost_engine::SystemClock;
use signpost_engine::domains::Format;
use signpost_engine::service_zone::{ServiceCheck, ServiceZone};
use signpost_keys::SystemRandom;
use std::process::ExitCode;

/// `signpost operator ...`.
#[derive(Subcommand)]
pub(crate) enum OperatorCommand {
    /// List what must be published below SIGNPOST_SERVICE_DOMAIN
    Records {
        /// Form of the list
        #[arg(long, default_value = "bind")]
        format: RecordFormat,
        #[command(flatten)]
        zone: ZoneArgs,
    },
    /// Ask the zone's servers whether it is published; exit status 0 only if all of it is
    Check {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        zone: ZoneArgs,
    },
}

/// As `format` of GET /v1/domains/{id}/records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    Json,
    Bind,
    Route53,
    Cloudflare,
    Nsupdate,
}

/// The settings that decide what is published, the same as those of `serve`.
#[derive(Args)]
pub(crate) struct ZoneArgs {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    dns: DnsArgs,
    #[command(flatten)]
    authorities: AuthorityArgs,
    #[command(flatten)]
    update: UpdateArgs,
}

impl ZoneArgs {
    fn zone(&self, dns: &Dns) -> Outcome<ServiceZone> {
        let domain = self.service.domain()?.ok_or_else(|| {
            ConfigError(
                "SIGNPOST_SERVICE_DOMAIN is not set: without a service domain nothing has to be published".into(),
            )
        })?;
        let hostname = host_name(self.service.hostname.as_deref())?;
        if !hostname.contains('.') {
            let text = format!(
                "SIGNPOST_HOSTNAME: {hostname:?} is no full host name; bounces and reports need one that others can reach"
            );
            return Err(ConfigError(text).into());
        }
        let update = self.update.settings()?.map(|settings| DnsUpdate::new(settings, dns.clone())).transpose()?;
        Ok(ServiceZone { domain, hostname, egress_ips: self.service.egress_ips.clone(), update })
    }

    fn dns(&self) -> Outcome<Dns> {
        Ok(Dns::new(self.authorities.settings(&self.dns))?)
    }
}

pub(crate) async fn run(command: OperatorCommand) -> Outcome<ExitCode> {
    match command {
        OperatorCommand::Records { format, zone } => records(format, &zone).await.map(|()| ExitCode::SUCCESS),
        OperatorCommand::Check { json, zone } => {
            let dns = zone.dns()?;
            let check = zone.zone(&dns)?.check(&dns, &SystemRandom, &SystemClock).await?;
            let code = if check.verdict == "pass" { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            print(&if json { for_programs(check)? } else { for_people(&check) })?;
            Ok(code)
        }
    }
}

async fn records(format: RecordFormat, args: &ZoneArgs) -> Outcome<()> {
    let dns = args.dns()?;
    let zone = args.zone(&dns)?;
    let text = match format {
        RecordFormat::Json => signpost_http::records_json(zone.records_in_zones(&dns).await?)?.to_string(),
        RecordFormat::Bind => zone.records_as(&dns, Format::Bind).await?,
        RecordFormat::Route53 => zone.records_as(&dns, Format::Route53).await?,
        RecordFormat::Cloudflare => zone.records_as(&dns, Format::Cloudflare).await?,
        RecordFormat::Nsupdate => zone.records_as(&dns, Format::Nsupdate).await?,
    };
    print(text.trim_end())
}

fn for_programs(check: ServiceCheck) -> Outcome<String> {
    let records = signpost_http::checked_records_json(check.records)?;
    Ok(serde_json::json!({"verdict": check.verdict, "records": records, "notes": check.notes}).to_string())
}

fn for_people(check: &ServiceCheck) -> String {
    let mut lines = Vec::new();
    for checked in &check.records {
        let record = &checked.record;
        lines.push(format!("{:<11} {:<5} {}: {}", record.status, record.kind, record.name, checked.explanation));
        lines.extend(record.warnings.iter().map(|warning| format!("{:<11} {warning}", "")));
    }
    lines.extend(check.notes.iter().map(|note| format!("{:<11} {note}", "note")));
    lines.push(format!("verdict {}", check.verdict));
    // What DNS says must not steer a terminal.
    lines.join("\n").chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}
