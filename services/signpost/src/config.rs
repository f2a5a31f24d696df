//! Every setting is a flag and a `SIGNPOST_*` variable; this is the only place that reads them.
use clap::Args;
use ipnet::IpNet;
use signpost_diagnosis::dns::DnsSettings;
use signpost_diagnosis::guard::Guard;
use signpost_dkim::SigningDomain;
use signpost_engine::Settings;
use signpost_engine::delivery::{DeliverySettings, Relay, RelayTls};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// A setting that cannot be used; Display names it and says how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// Where data and keys lie; needed by every command that opens the store.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Folder of the SQLite file and the master key
    #[arg(long, env = "SIGNPOST_DATA_DIR", default_value = "./signpost-data")]
    pub(crate) data_dir: PathBuf,
    /// `sqlite:PATH`; default: signpost.db in the data folder
    #[arg(long, env = "SIGNPOST_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// File with 32 octets, base64, mode 0600; default: master.key in the data folder
    #[arg(long, env = "SIGNPOST_MASTER_KEY_FILE")]
    pub(crate) master_key_file: Option<PathBuf>,
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
    /// The SQLite file.
    pub(crate) fn sqlite_path(&self) -> Result<PathBuf, ConfigError> {
        match self.database_url.as_deref() {
            None => Ok(self.data_dir.join("signpost.db")),
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(path) if !path.trim_start_matches("//").is_empty() => {
                    Ok(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
                }
                _ => Err(ConfigError("SIGNPOST_DATABASE_URL: this version speaks `sqlite:PATH` only".into())),
            },
        }
    }

    /// The master-key file.
    pub(crate) fn master_key_path(&self) -> PathBuf {
        self.master_key_file.clone().unwrap_or_else(|| self.data_dir.join("master.key"))
    }
}

/// `signpost serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// HTTP address
    #[arg(long, env = "SIGNPOST_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Roles of this process; apart only on a database that several processes share
    #[arg(long, env = "SIGNPOST_ROLES", default_value = "api,worker,inbound", value_delimiter = ',')]
    pub(crate) roles: Vec<Role>,
    /// Custody of new keys
    #[arg(long, env = "SIGNPOST_KEY_CUSTODY", default_value = "sealed")]
    pub(crate) key_custody: KeyCustody,
    /// `ip:port,...` asked instead of the system's resolvers
    #[arg(long, env = "SIGNPOST_DNS_RESOLVERS", value_delimiter = ',')]
    pub(crate) dns_resolvers: Vec<SocketAddr>,
    /// Port for direct questions to authoritative servers
    #[arg(long, env = "SIGNPOST_DNS_AUTHORITY_PORT", default_value_t = 53)]
    pub(crate) dns_authority_port: u16,
    /// `smtp://host:port` (with `user:pass@` STARTTLS is required) or `smtps://...`; unset: direct to MX
    #[arg(long, env = "SIGNPOST_SMTP_RELAY", hide_env_values = true)]
    pub(crate) smtp_relay: Option<String>,
    /// File that holds the value of SIGNPOST_SMTP_RELAY
    #[arg(long, env = "SIGNPOST_SMTP_RELAY_FILE", conflicts_with = "smtp_relay")]
    pub(crate) smtp_relay_file: Option<PathBuf>,
    /// Port for direct MX delivery
    #[arg(long, env = "SIGNPOST_SMTP_PORT", default_value_t = 25)]
    pub(crate) smtp_port: u16,
    /// CIDRs outside the public ranges that tenants or DNS may name as targets
    #[arg(long, env = "SIGNPOST_DANGEROUS_ALLOW_TARGETS", value_delimiter = ',')]
    pub(crate) dangerous_allow_targets: Vec<IpNet>,
    /// EHLO name; default: the system's host name
    #[arg(long, env = "SIGNPOST_HOSTNAME")]
    pub(crate) hostname: Option<String>,
    /// The operator's zone: `bounce.` lies below it
    #[arg(long, env = "SIGNPOST_SERVICE_DOMAIN")]
    pub(crate) service_domain: Option<String>,
    /// Addresses that mail leaves from; unset: no SPF advice
    #[arg(long, env = "SIGNPOST_EGRESS_IPS", value_delimiter = ',')]
    pub(crate) egress_ips: Vec<IpAddr>,
    /// How long a message is tried, for example `5d`, `12h`, `90m`, `600s`
    #[arg(long, env = "SIGNPOST_QUEUE_LIFETIME", default_value = "5d", value_parser = parse_duration_ms)]
    pub(crate) queue_lifetime: i64,
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
}

impl ServeArgs {
    /// Refuses combinations that cannot work.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(self.roles.contains(&Role::Api) && self.roles.contains(&Role::Worker)) {
            return Err(ConfigError(
                "SIGNPOST_ROLES: on SQLite one process has the roles api and worker together".into(),
            ));
        }
        Ok(())
    }

    /// Settings of the engine.
    pub(crate) fn engine_settings(&self) -> Result<Settings, ConfigError> {
        let service_domain = match self.service_domain.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                SigningDomain::parse(text).map_err(|error| ConfigError(format!("SIGNPOST_SERVICE_DOMAIN: {error}")))?,
            ),
        };
        Ok(Settings {
            hostname: self.hostname()?,
            service_domain,
            egress_ips: self.egress_ips.clone(),
            max_message: self.max_message,
            queue_lifetime_ms: self.queue_lifetime,
            delivery: DeliverySettings {
                relay: self.relay()?,
                smtp_port: self.smtp_port,
                in_flight: usize::from(self.smtp_in_flight),
                guard: self.guard(),
            },
        })
    }

    /// Settings of DNS questions.
    pub(crate) fn dns_settings(&self) -> DnsSettings {
        DnsSettings {
            resolvers: self.dns_resolvers.clone(),
            authority_port: self.dns_authority_port,
            guard: self.guard(),
        }
    }

    fn guard(&self) -> Guard {
        Guard { allow: self.dangerous_allow_targets.clone() }
    }

    fn hostname(&self) -> Result<String, ConfigError> {
        let name = match self.hostname.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            Some(name) => name.to_owned(),
            None => std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).map_err(
                |error| ConfigError(format!("SIGNPOST_HOSTNAME is not set and the system's is unknown: {error}")),
            )?,
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
            return Err(ConfigError(format!(
                "SIGNPOST_HOSTNAME: {name:?} is not a host name (letters, digits, `.`, `-`)"
            )));
        }
        Ok(name)
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
        Some(text) => text.parse().map_err(|_| bad("bad port"))?,
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

/// `5d`, `12h`, `90m`, `600s` as milliseconds.
fn parse_duration_ms(text: &str) -> Result<i64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "d" => 86_400_000,
        "h" => 3_600_000,
        "m" => 60_000,
        "s" | "" => 1_000,
        _ => return Err("a number with one of d, h, m, s is needed, for example 5d".into()),
    };
    let number: i64 =
        number.parse().map_err(|_| "a number with one of d, h, m, s is needed, for example 5d".to_owned())?;
    number.checked_mul(factor).filter(|ms| *ms > 0).ok_or_else(|| "out of range".to_owned())
}

/// `25MB` (decimal), `500kB`, or octets.
fn parse_size(text: &str) -> Result<u64, String> {
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
        for text in ["relay.example:25", "http://x", "smtp://", "smtp://u@h", "smtp://h:port", "smtp://u:secret%zz@h"] {
            let error = parse_relay(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration_ms("5d"), Ok(432_000_000));
        assert_eq!(parse_duration_ms("90m"), Ok(5_400_000));
        assert_eq!(parse_size("25MB"), Ok(25_000_000));
        assert_eq!(parse_size("1024"), Ok(1024));
        for bad in ["", "d", "-1d", "0s", "5w", "99999999999999999d"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
        for bad in ["", "MB", "-1", "0", "25GB", "101MB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
