//! Every setting is a flag and a `SIGNPOST_*` variable; this is the only place that reads them.
use crate::master_key::KeyFiles;
use clap::Args;
use ipnet::IpNet;
use signpost_diagnosis::dns::DnsSettings;
use signpost_diagnosis::guard::Guard;
use signpost_diagnosis::update::UpdateSettings;
use signpost_dkim::SigningDomain;
use signpost_engine::Settings;
use signpost_engine::delivery::{DeliverySettings, Relay, RelayTls};
use signpost_http::Door;
use signpost_keys::{DEFAULT_KMS_RATE, EnvelopeSettings};
use signpost_store::PostgresSettings;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A setting that cannot be used; Display names it and says how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// Where data and keys lie; needed by every command that opens the store. Without Debug: the database's URL may hold a password.
#[derive(Clone, Args)]
pub(crate) struct StoreArgs {
    /// Folder of the SQLite file and the master key
    #[arg(long, env = "SIGNPOST_DATA_DIR", default_value = "./signpost-data")]
    pub(crate) data_dir: PathBuf,
    /// `sqlite:PATH` or `postgres://user:password@host:port/database`; default: signpost.db in the data folder
    #[arg(long, env = "SIGNPOST_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// File that holds the value of SIGNPOST_DATABASE_URL
    #[arg(long, env = "SIGNPOST_DATABASE_URL_FILE", conflicts_with = "database_url")]
    pub(crate) database_url_file: Option<PathBuf>,
    /// File with 32 octets, base64, mode 0600; default: master.key in the data folder
    #[arg(long, env = "SIGNPOST_MASTER_KEY_FILE")]
    pub(crate) master_key_file: Option<PathBuf>,
    /// The same of the master key to change to (`signpost master-key rotate`); need not exist. Default: the name of the master key's file
    /// and `.next`
    #[arg(long, env = "SIGNPOST_MASTER_KEY_NEXT_FILE")]
    pub(crate) master_key_next_file: Option<PathBuf>,
    /// Log filter, for example `info` or `signpost_engine=debug`
    #[arg(long, env = "SIGNPOST_LOG", default_value = "info")]
    pub(crate) log: String,
    /// `text` or `json`
    #[arg(long, env = "SIGNPOST_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl StoreArgs {
    /// Which database, and where. The error never repeats the address: it may hold a password.
    pub(crate) fn database(&self) -> Result<Database, ConfigError> {
        let url = match (&self.database_url, &self.database_url_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => read_secret(file, "SIGNPOST_DATABASE_URL_FILE")?,
            (None, None) => return Ok(Database::Sqlite(self.data_dir.join("signpost.db"))),
        };
        if let Some(path) = url.strip_prefix("sqlite:").filter(|path| !path.trim_start_matches("//").is_empty()) {
            return Ok(Database::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
        }
        PostgresSettings::from_url(&url).map(Database::Postgres).ok_or_else(|| {
            ConfigError(
                "SIGNPOST_DATABASE_URL: `sqlite:PATH` or `postgres://user:password@host:port/database` is needed \
                 (characters other than letters and digits in user and password percent-encoded)"
                    .into(),
            )
        })
    }

    /// The master-key files.
    pub(crate) fn master_key_files(&self) -> KeyFiles {
        let files = KeyFiles::at(self.master_key_file.clone().unwrap_or_else(|| self.data_dir.join("master.key")));
        match &self.master_key_next_file {
            Some(next) => KeyFiles { next: next.clone(), ..files },
            None => files,
        }
    }
}

/// What SIGNPOST_DATABASE_URL names.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// File of the embedded database.
    Sqlite(PathBuf),
    /// A server, which several processes may share.
    Postgres(PostgresSettings),
}

/// Which resolvers are asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct DnsArgs {
    /// `ip:port,...` asked instead of the system's resolvers
    #[arg(long, env = "SIGNPOST_DNS_RESOLVERS", value_delimiter = ',')]
    pub(crate) dns_resolvers: Vec<SocketAddr>,
}

impl DnsArgs {
    /// For commands that only ask resolvers.
    pub(crate) fn settings(&self) -> DnsSettings {
        DnsSettings { resolvers: self.dns_resolvers.clone(), authority_port: 53, guard: Guard::default() }
    }
}

/// How the authoritative servers of a zone are asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuthorityArgs {
    /// Port for direct questions to authoritative servers
    #[arg(long, env = "SIGNPOST_DNS_AUTHORITY_PORT", default_value_t = 53, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) dns_authority_port: u16,
    /// CIDRs outside the public ranges that tenants or DNS may name as targets
    #[arg(long, env = "SIGNPOST_DANGEROUS_ALLOW_TARGETS", value_delimiter = ',')]
    pub(crate) dangerous_allow_targets: Vec<IpNet>,
}

impl AuthorityArgs {
    /// Settings of DNS questions.
    pub(crate) fn settings(&self, resolvers: &DnsArgs) -> DnsSettings {
        DnsSettings {
            resolvers: resolvers.dns_resolvers.clone(),
            authority_port: self.dns_authority_port,
            guard: self.guard(),
        }
    }

    fn guard(&self) -> Guard {
        Guard { allow: self.dangerous_allow_targets.clone() }
    }
}

/// What the operator's own zone is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceArgs {
    /// EHLO name, and the host that takes bounces; default: the system's host name
    #[arg(long, env = "SIGNPOST_HOSTNAME")]
    pub(crate) hostname: Option<String>,
    /// The operator's zone: `spf.`, `bounce.`, `dkim.`, `reports.` lie below it (`signpost operator records` lists them)
    #[arg(long, env = "SIGNPOST_SERVICE_DOMAIN")]
    pub(crate) service_domain: Option<String>,
    /// Addresses that mail leaves from; unset: no SPF advice
    #[arg(long, env = "SIGNPOST_EGRESS_IPS", value_delimiter = ',')]
    pub(crate) egress_ips: Vec<IpAddr>,
}

impl ServiceArgs {
    /// SIGNPOST_SERVICE_DOMAIN; an empty value is an unset one.
    pub(crate) fn domain(&self) -> Result<Option<SigningDomain>, ConfigError> {
        match self.service_domain.as_deref().filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => SigningDomain::parse(text)
                .map(Some)
                .map_err(|error| ConfigError(format!("SIGNPOST_SERVICE_DOMAIN: {error}"))),
        }
    }
}

/// Where keys of delegated domains are published. Without Debug: it may hold a secret.
#[derive(Clone, Args)]
pub(crate) struct UpdateArgs {
    /// `tsig-name:algorithm:secret@host:port`: the primary DNS server of `dkim.<service domain>` and a TSIG key that may update it;
    /// with it domains can be `delegated`. Algorithm: hmac-sha256, hmac-sha384 or hmac-sha512; the secret is base64
    #[arg(long, env = "SIGNPOST_DNS_UPDATE", hide_env_values = true)]
    dns_update: Option<String>,
    /// File that holds the value of SIGNPOST_DNS_UPDATE
    #[arg(long, env = "SIGNPOST_DNS_UPDATE_FILE", conflicts_with = "dns_update")]
    dns_update_file: Option<PathBuf>,
}

impl UpdateArgs {
    /// `None` where nothing is set.
    pub(crate) fn settings(&self) -> Result<Option<UpdateSettings>, ConfigError> {
        let text = match (&self.dns_update, &self.dns_update_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => read_secret(file, "SIGNPOST_DNS_UPDATE_FILE")?,
            (None, None) => return Ok(None),
        };
        if text.is_empty() {
            return Ok(None);
        }
        let settings = UpdateSettings::parse(&text);
        settings.map(Some).map_err(|error| ConfigError(format!("SIGNPOST_DNS_UPDATE: {error}")))
    }
}

/// `signpost serve`. Without Debug: the relay's address may hold a password.
#[derive(Clone, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// HTTP address
    #[arg(long, env = "SIGNPOST_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// How others reach the API, for example https://signpost.example.com; access tokens name it, so all processes need the same.
    /// Unset: http:// and the HTTP address
    #[arg(long, env = "SIGNPOST_PUBLIC_URL", value_parser = parse_public_url)]
    pub(crate) public_url: Option<String>,
    /// Addresses or CIDRs of proxies in front, whose X-Forwarded-For is believed
    #[arg(long, env = "SIGNPOST_TRUSTED_PROXIES", value_delimiter = ',', value_parser = parse_net)]
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Connections at a time of one client address (of IPv6, of a /64); 0: no limit. Loopback and trusted proxies are not counted
    #[arg(long, env = "SIGNPOST_CONNECTIONS_PER_ADDRESS", default_value_t = Door::default().connections_per_address)]
    pub(crate) connections_per_address: usize,
    /// Requests a second of one tenant, counted by each process; two seconds' worth may come at once. Unset: no limit
    #[arg(long, env = "SIGNPOST_RATE_LIMIT", value_parser = parse_rate)]
    pub(crate) rate_limit: Option<NonZeroU32>,
    /// Roles of this process; apart only on a database that several processes share
    #[arg(long, env = "SIGNPOST_ROLES", default_value = "api,worker,inbound", value_delimiter = ',')]
    pub(crate) roles: Vec<Role>,
    /// Custody of new keys
    #[arg(long, env = "SIGNPOST_KEY_CUSTODY", default_value = "sealed")]
    pub(crate) key_custody: KeyCustody,
    /// Custody aws-kms-envelope: ARN, id or alias of the key in AWS KMS that wraps new private keys. An alias that does not exist is made,
    /// with a key
    #[arg(long, env = "SIGNPOST_KMS_WRAPPING_KEY", default_value_t = EnvelopeSettings::default().wrapping_key)]
    pub(crate) kms_wrapping_key: String,
    /// Custody aws-kms-envelope: how long a private key stays unwrapped in memory; so long it signs on when the KMS refuses it, or is away
    #[arg(long, env = "SIGNPOST_KMS_UNWRAPPED_FOR", default_value = "5m", value_parser = parse_duration_ms)]
    pub(crate) kms_unwrapped_for: i64,
    /// Signatures a second that this process asks of AWS KMS at most, for each account and region; the same again for unwrapping. With several
    /// processes each takes its own: divide
    #[arg(long, env = "SIGNPOST_KMS_RATE", default_value_t = DEFAULT_KMS_RATE, value_parser = parse_rate)]
    pub(crate) kms_rate: NonZeroU32,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
    #[command(flatten)]
    pub(crate) authorities: AuthorityArgs,
    /// `smtp://host:port` (with `user:pass@` STARTTLS is required) or `smtps://...`; unset: direct to MX
    #[arg(long, env = "SIGNPOST_SMTP_RELAY", hide_env_values = true)]
    pub(crate) smtp_relay: Option<String>,
    /// File that holds the value of SIGNPOST_SMTP_RELAY
    #[arg(long, env = "SIGNPOST_SMTP_RELAY_FILE", conflicts_with = "smtp_relay")]
    pub(crate) smtp_relay_file: Option<PathBuf>,
    /// Port for direct MX delivery
    #[arg(long, env = "SIGNPOST_SMTP_PORT", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) smtp_port: u16,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    #[command(flatten)]
    pub(crate) update: UpdateArgs,
    /// How long a message is tried, for example `5d`, `12h`, `90m`, `600s`
    #[arg(long, env = "SIGNPOST_QUEUE_LIFETIME", default_value = "5d", value_parser = parse_duration_ms)]
    pub(crate) queue_lifetime: i64,
    /// How often the records of each domain that signs are looked at: 5m to 6h. What is wrong is looked at sooner
    #[arg(long, env = "SIGNPOST_WATCH_EVERY", default_value = "6h", value_parser = parse_watch_interval_ms)]
    pub(crate) watch_every: i64,
    /// Largest built message, for example `25MB` (25,000,000 octets)
    #[arg(long, env = "SIGNPOST_MAX_MESSAGE", default_value = "25MB", value_parser = parse_size)]
    pub(crate) max_message: u64,
    /// Deliveries in flight
    #[arg(long, env = "SIGNPOST_SMTP_IN_FLIGHT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) smtp_in_flight: u16,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The HTTP API.
    Api,
    /// Signing of what waits, and delivery.
    Worker,
    /// SMTP server for bounces and reports; does nothing without a listen address.
    Inbound,
}

/// Custody of new keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyCustody {
    /// Sealed in the database under the master key.
    Sealed,
    /// Made in AWS KMS, and never out of it; the standard AWS settings say where (AWS_REGION, AWS_ENDPOINT_URL_KMS, ...).
    AwsKms,
    /// Made here, and wrapped by a key in AWS KMS, without which they do not open; signed with locally.
    AwsKmsEnvelope,
}

impl ServeArgs {
    /// Refuses combinations that cannot work.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let (api, worker) = (self.has(Role::Api), self.has(Role::Worker));
        match self.store.database()? {
            Database::Sqlite(_) if !(api && worker) => {
                Err(ConfigError("SIGNPOST_ROLES: on SQLite one process has the roles api and worker together".into()))
            }
            Database::Postgres(_) if !(api || worker) => {
                Err(ConfigError("SIGNPOST_ROLES: a process needs the role api or worker".into()))
            }
            Database::Sqlite(_) | Database::Postgres(_) => Ok(()),
        }
    }

    /// True if this process does that.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Settings of the engine.
    pub(crate) fn engine_settings(&self) -> Result<Settings, ConfigError> {
        Ok(Settings {
            hostname: host_name(self.service.hostname.as_deref())?,
            service_domain: self.service.domain()?,
            egress_ips: self.service.egress_ips.clone(),
            max_message: self.max_message,
            queue_lifetime_ms: self.queue_lifetime,
            watch_every_ms: self.watch_every,
            delivery: DeliverySettings {
                relay: self.relay()?,
                smtp_port: self.smtp_port,
                in_flight: usize::from(self.smtp_in_flight),
                guard: self.authorities.guard(),
            },
        })
    }

    /// The DNS server that keys of delegated domains are published on, and the service domain they lie below. Without a service
    /// domain there is no place for them, and the mode is not offered.
    pub(crate) fn dns_update(
        &self,
        service_domain: Option<&SigningDomain>,
    ) -> Result<Option<(UpdateSettings, SigningDomain)>, ConfigError> {
        let Some(settings) = self.update.settings()? else { return Ok(None) };
        if service_domain.is_none() {
            tracing::warn!(
                "SIGNPOST_DNS_UPDATE has no effect without SIGNPOST_SERVICE_DOMAIN, below which keys would be published"
            );
        }
        Ok(service_domain.map(|domain| (settings, domain.clone())))
    }

    /// Settings of DNS questions.
    pub(crate) fn dns_settings(&self) -> DnsSettings {
        self.authorities.settings(&self.dns)
    }

    /// Who may come in, in a process that may have so many files open.
    pub(crate) fn door(&self, open_files: u64) -> Door {
        let connections = connections(Door::default().connections, open_files);
        if connections < Door::default().connections {
            tracing::warn!("open files are limited to {open_files} (ulimit -n), so connections to {connections}");
        }
        Door {
            trusted_proxies: self.trusted_proxies.clone(),
            connections,
            connections_per_address: self.connections_per_address,
        }
    }

    /// Settings of custody aws-kms-envelope.
    pub(crate) fn envelope_settings(&self) -> EnvelopeSettings {
        let lifetime = Duration::from_millis(self.kms_unwrapped_for.unsigned_abs());
        EnvelopeSettings { wrapping_key: self.kms_wrapping_key.clone(), lifetime }
    }

    fn relay(&self) -> Result<Option<Relay>, ConfigError> {
        let text = match (&self.smtp_relay, &self.smtp_relay_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => read_secret(file, "SIGNPOST_SMTP_RELAY_FILE")?,
            (None, None) => return Ok(None),
        };
        if text.is_empty() { Ok(None) } else { parse_relay(&text).map(Some) }
    }
}

/// SIGNPOST_HOSTNAME, else the system's name.
pub(crate) fn host_name(given: Option<&str>) -> Result<String, ConfigError> {
    let name = match given.map(str::trim).filter(|text| !text.is_empty()) {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).map_err(
            |error| ConfigError(format!("SIGNPOST_HOSTNAME is not set and the system's is unknown: {error}")),
        )?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
        return Err(ConfigError(format!("SIGNPOST_HOSTNAME: {name:?} is not a host name (letters, digits, `.`, `-`)")));
    }
    Ok(name)
}

/// Files that deliveries, database and DNS may need beside the connections of the API.
const OTHER_FILES: u64 = 1_000;

/// As many connections as wished, or what the limit of open files leaves: at least half of it.
fn connections(wished: usize, open_files: u64) -> usize {
    let left = open_files.saturating_sub(OTHER_FILES).max(open_files / 2).max(1);
    usize::try_from(left).map_or(wished, |left| wished.min(left))
}

/// `10.0.0.0/8`, or one address.
fn parse_net(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "an address or a CIDR is needed, for example 10.0.0.0/8".to_owned())
}

/// `https://host[:port][/path]`, without a final slash. Nothing else belongs into the `iss` of a token (RFC 8414 2).
fn parse_public_url(text: &str) -> Result<String, String> {
    let url = text.trim().trim_end_matches('/');
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_graphic() && !b"?#@\"<>\\".contains(&b);
    if host.is_empty() || !rest.bytes().all(plain) {
        return Err("a URL like https://signpost.example.com is needed, without user, query or fragment".to_owned());
    }
    Ok(url.to_owned())
}

/// At most a million: below a microsecond a request there is nothing to count.
fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    let rate: Option<u32> = text.trim().parse().ok().filter(|rate| *rate <= 1_000_000);
    rate.and_then(NonZeroU32::new).ok_or_else(|| "a number of requests a second from 1 to 1000000 is needed".to_owned())
}

fn read_secret(file: &Path, variable: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(file)
        .map(|text| text.trim().to_owned())
        .map_err(|error| ConfigError(format!("{variable}: {}: {error}", file.display())))
}

/// `smtp://[user:pass@]host[:port]` or `smtps://...`. Errors never repeat the text: it may hold a password.
fn parse_relay(text: &str) -> Result<Relay, ConfigError> {
    let bad = |what: &str| {
        ConfigError(format!("SIGNPOST_SMTP_RELAY: {what}; `smtp://host:port` or `smtps://host:port` is needed"))
    };
    let (implicit, rest) = match (text.strip_prefix("smtp://"), text.strip_prefix("smtps://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(bad("unknown scheme")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, host_port) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((login, host_port)) => {
            let (user, password) = login.split_once(':').ok_or_else(|| bad("`user:pass@` needs both"))?;
            let user = percent_decode(user).ok_or_else(|| bad("bad percent-encoding in the user"))?;
            let password = percent_decode(password).ok_or_else(|| bad("bad percent-encoding in the password"))?;
            (Some((user, password)), host_port)
        }
    };
    let default_port = if implicit { 465 } else { 25 };
    let (host, port) = match host_port.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or_else(|| bad("unclosed `[`"))?;
            (host, after.strip_prefix(':'))
        }
        None => match host_port.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        },
    };
    let port = match port {
        None => default_port,
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad("bad port"))?,
    };
    if host.is_empty() {
        return Err(bad("no host"));
    }
    let tls = match (implicit, &credentials) {
        (true, _) => RelayTls::Implicit,
        (false, Some(_)) => RelayTls::StartTls,
        (false, None) => RelayTls::Opportunistic,
    };
    Ok(Relay { host: host.to_owned(), port, tls, credentials })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Longest time to try a message: receivers and senders alike have forgotten it by then.
const MAX_DURATION_MS: i64 = 30 * 86_400_000;

/// `5d`, `12h`, `90m`, `600s` as milliseconds.
fn parse_duration_ms(text: &str) -> Result<i64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "d" => 86_400_000,
        "h" => 3_600_000,
        "m" => 60_000,
        "s" => 1_000,
        _ => return Err("a number with one of d, h, m, s is needed, for example 5d".into()),
    };
    let number: i64 =
        number.parse().map_err(|_| "a number with one of d, h, m, s is needed, for example 5d".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|ms| (1..=MAX_DURATION_MS).contains(ms))
        .ok_or_else(|| "more than nothing and at most 30d is needed".to_owned())
}

/// Between looks at a domain. DESIGN "Published keys": what DNS served is read again once it is older than 6 h.
fn parse_watch_interval_ms(text: &str) -> Result<i64, String> {
    let bounds = 5 * 60_000..=6 * 3_600_000;
    parse_duration_ms(text)
        .ok()
        .filter(|ms| bounds.contains(ms))
        .ok_or_else(|| "5m to 6h is needed, for example 2h".to_owned())
}

/// `25MB` (decimal), `500kB`, or octets.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        _ => return Err("a number of octets is needed, or one with kB or MB, for example 25MB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a number is needed, for example 25MB".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|size| (1..=100_000_000).contains(size))
        .ok_or_else(|| "1 octet to 100MB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_addresses() {
        for (text, host, port, tls, login) in [
            ("smtp://127.0.0.1:2525", "127.0.0.1", 2525, RelayTls::Opportunistic, None),
            ("smtp://relay.example", "relay.example", 25, RelayTls::Opportunistic, None),
            ("smtp://u:p%40ss@relay.example:587", "relay.example", 587, RelayTls::StartTls, Some(("u", "p@ss"))),
            ("smtps://[::1]:4650", "::1", 4650, RelayTls::Implicit, None),
            ("smtps://relay.example/", "relay.example", 465, RelayTls::Implicit, None),
        ] {
            let relay = parse_relay(text).unwrap();
            assert_eq!((relay.host.as_str(), relay.port, relay.tls), (host, port, tls), "{text}");
            assert_eq!(relay.credentials.as_ref().map(|(u, p)| (u.as_str(), p.as_str())), login, "{text}");
        }
        for text in [
            "relay.example:25",
            "http://x",
            "smtp://",
            "smtp://u@h",
            "smtp://h:port",
            "smtp://h:0",
            "smtp://u:secret%zz@h",
        ] {
            let error = parse_relay(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn serve(arguments: &[&str]) -> ServeArgs {
        use clap::Parser;
        Serve::parse_from(["serve"].iter().chain(arguments)).args
    }

    #[test]
    fn databases_and_the_roles_that_they_allow() {
        let database = |url: &str| serve(&["--database-url", url]).store.database();
        assert!(matches!(database("sqlite:a.db"), Ok(Database::Sqlite(path)) if path == Path::new("a.db")));
        assert!(matches!(database("sqlite:///v/a.db"), Ok(Database::Sqlite(path)) if path == Path::new("/v/a.db")));
        assert!(matches!(database("postgres://u:p@h:5432/d"), Ok(Database::Postgres(_))));
        for bad in ["", "sqlite:", "sqlite://", "mysql://u:s3cret@h/d", "postgres://u:s3cret@h:port/d"] {
            let error = database(bad).unwrap_err().to_string();
            assert!(error.contains("SIGNPOST_DATABASE_URL") && !error.contains("s3cret"), "{error}");
        }
        for (url, roles, allowed) in [
            ("sqlite:a.db", "api,worker,inbound", true),
            ("sqlite:a.db", "api", false),
            ("sqlite:a.db", "worker", false),
            ("postgres://h/d", "api", true),
            ("postgres://h/d", "worker", true),
            ("postgres://h/d", "api,worker", true),
            ("postgres://h/d", "inbound", false),
        ] {
            let args = serve(&["--database-url", url, "--roles", roles]);
            assert_eq!(args.validate().is_ok(), allowed, "{url} {roles}");
        }
    }

    #[test]
    fn what_the_door_lets_in() {
        let door = serve(&["--trusted-proxies", "10.0.0.0/8, 192.0.2.7,2001:db8::/32,::1"]).door(u64::MAX);
        let nets: Vec<String> = door.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::1/128"]);
        assert_eq!((door.connections, door.connections_per_address), (10_000, 256));
        for (open_files, expected) in [(u64::MAX, 10_000), (11_000, 10_000), (4_096, 3_096), (1_024, 512), (1, 1)] {
            assert_eq!(connections(10_000, open_files), expected, "{open_files} open files");
        }
        for bad in ["", "proxy.example", "10.0.0.0/33", "10.0.0", "*"] {
            assert!(parse_net(bad).is_err(), "{bad}");
        }
        for (given, url) in [
            ("https://signpost.example.com/", "https://signpost.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://example.com/signpost", "https://example.com/signpost"),
        ] {
            assert_eq!(parse_public_url(given).as_deref(), Ok(url));
        }
        for bad in [
            "",
            "example.com",
            "ftp://example.com",
            "https://",
            "https:///v1",
            "https://a@b.example",
            "https://b.example/?x",
            "https://b .example",
        ] {
            assert!(parse_public_url(bad).is_err(), "{bad}");
        }
        assert_eq!(serve(&["--rate-limit", "5"]).rate_limit.map(NonZeroU32::get), Some(5));
        assert_eq!(serve(&[]).rate_limit, None);
        for bad in ["", "0", "-1", "1.5", "1000001", "fast"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_dns_update_server_needs_a_service_domain_and_its_secret_is_never_told() {
        let good = "k:hmac-sha256:c2VjcmV0@127.0.0.1:5300";
        let domain = SigningDomain::parse("service.example").unwrap();
        let offered =
            |setting: &str, domain| serve(&["--dns-update", setting]).dns_update(domain).map(|found| found.is_some());
        assert!(matches!(offered(good, Some(&domain)), Ok(true)));
        assert!(matches!(offered(good, None), Ok(false)));
        assert!(matches!(offered("", Some(&domain)), Ok(false)));
        assert!(matches!(serve(&[]).dns_update(Some(&domain)), Ok(None)));
        for bad in ["k:hmac-md5:c2VjcmV0@h", "k:hmac-sha256:c2VjcmV0", "c2VjcmV0"] {
            let error = offered(bad, Some(&domain)).unwrap_err().to_string();
            assert!(error.starts_with("SIGNPOST_DNS_UPDATE: ") && !error.contains("c2VjcmV0"), "{error}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration_ms("5d"), Ok(432_000_000));
        assert_eq!(parse_duration_ms("90m"), Ok(5_400_000));
        assert_eq!(parse_duration_ms("30d"), Ok(2_592_000_000));
        assert_eq!(parse_size("25MB"), Ok(25_000_000));
        assert_eq!(parse_size("1024"), Ok(1024));
        for bad in ["", "d", "5", "-1d", "0s", "5w", "31d", "2592001s", "99999999999999999d"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
        for (text, ms) in [("5m", 300_000), ("6h", 21_600_000), ("600s", 600_000)] {
            assert_eq!(parse_watch_interval_ms(text), Ok(ms));
        }
        for bad in ["", "299s", "4m", "7h", "1d", "6"] {
            assert!(parse_watch_interval_ms(bad).is_err(), "{bad}");
        }
        assert_eq!(serve(&[]).watch_every, 21_600_000);
        for bad in ["", "MB", "-1", "0", "25GB", "101MB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
